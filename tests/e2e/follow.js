// Follows a job with Node's `ws` package, as its users do; prints what it received as JSON.
const WebSocket = require("ws");

const [address] = process.argv.slice(2);
const socket = new WebSocket(address);
const received = { texts: [], frames: [], extensions: null };
socket.on("open", () => {
  received.extensions = socket.extensions;
});
socket.on("message", (data, isBinary) => {
  if (!isBinary) {
    received.texts.push(JSON.parse(data.toString()));
    return;
  }
  const length = data.readUInt32BE(4);
  const facts = JSON.parse(data.subarray(8, 8 + length).toString());
  const picture = data.subarray(8 + length);
  received.frames.push({ kind: data.readUInt32BE(0), facts, magic: picture.readUInt16BE(0) });
});
socket.on("close", (code) => console.log(JSON.stringify({ ...received, code })));
