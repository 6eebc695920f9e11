"""Small models of object detection with random weights, as transformers saves them."""

from pathlib import Path

import torch

SMALL = {
    "encoder_in_channels": [16, 16, 16],
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "encoder_layers": 1,
    "d_model": 32,
    "num_queries": 20,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "hidden_expansion": 1.0,
    "id2label": {0: "dog", 1: "Person", 2: "bicycle"},
    "label2id": {"dog": 0, "Person": 1, "bicycle": 2},
}


def save_detector(folder: Path, kind: str = "DFine", **settings: object) -> Path:
    """A model of transformers with random weights, and its image processor."""
    import transformers

    backbone = transformers.HGNetV2Config(
        embedding_size=8,
        stem_channels=[3, 8, 16],
        hidden_sizes=[16, 16, 16, 16],
        stage_in_channels=[16, 16, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    if kind == "RTDetrV2":
        backbone = transformers.RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[12, 16, 20, 24],
            depths=[1, 1, 1, 1],
            layer_type="bottleneck",
            out_features=["stage2", "stage3", "stage4"],
        )
        settings["encoder_in_channels"] = [16, 20, 24]
    config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, **(SMALL | settings))
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config)
    for parameter in model.parameters():  # boxes that differ, and scores above and below the threshold
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    transformers.RTDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
    return folder
