"""The full-size configuration: SDXL 1.0, DINOv2-large and the published resampler.

For dry runs, which need shapes and no weights. A real run reads the configuration that stands
beside its weights.
"""

from pathlib import Path
from typing import Any

from training.nano import write_files, write_tokenizers

TEXT_LENGTH = 77
UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
CODEC: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.13025,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_TEXT: dict[str, Any] = {
    "model_type": "clip_text_model",
    "max_position_embeddings": TEXT_LENGTH,
    "vocab_size": 49408,
}
VISION: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
}
PREPROCESSING: dict[str, Any] = {
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def write_configs(folder: Path) -> None:
    """Write the configuration files into `folder`; the tokenizers are nano's, at SDXL's length."""
    write_files(
        folder,
        {
            "sdxl/unet/config.json": UNET,
            "sdxl/vae/config.json": CODEC,
            "sdxl/scheduler/scheduler_config.json": SCHEDULER,
            "sdxl/text_encoder/config.json": {
                **_TEXT,
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "projection_dim": 768,
                "hidden_act": "quick_gelu",
            },
            "sdxl/text_encoder_2/config.json": {
                **_TEXT,
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 20,
                "projection_dim": 1280,
                "hidden_act": "gelu",
            },
            "dinov2/config.json": VISION,
            "dinov2/preprocessor_config.json": PREPROCESSING,
        },
    )
    write_tokenizers(folder, TEXT_LENGTH)
