/** Seconds in words that promise no more than is known. */

export function duration(seconds) {
  if (seconds < 1) return "1 s";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 10) return whole % 60 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return minutes < 90 ? `${minutes} min` : `${(whole / 3600).toFixed(1)} h`;
}

/** Both bounds of nine in ten, as one text. */
export function range(low, high) {
  const [from, to] = [duration(low), duration(high)];
  return from === to ? from : `${from} to ${to}`;
}

/** How many are served before a picture, in words. */
export function place(position) {
  if (position === 0) return "Next in line";
  return position === 1 ? "1 picture before it" : `${position} pictures before it`;
}

/** The same where there is little room. */
export function ahead(position) {
  return position === 0 ? "Next in line" : `${position} before it`;
}
