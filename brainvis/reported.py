"""Numbers that other people reported, each with its source and protocol; none of them was measured here.

They are kept apart on purpose: every row says that it is reported, on which data and under which protocol, and no
test compares a measurement with them. All were measured on EEGCVPR40 (Spampinato et al. 2017: 6 subjects, 40 classes,
5-95 Hz), where each class was shown in one block, and read from Fu et al., arXiv 2312.14871 (ICASSP 2025).
"""

from __future__ import annotations

import pandas as pd

SOURCE = "Fu et al., arXiv 2312.14871"
# What the authors' release does; the paper itself does not say how epochs were chosen.
OURS = "released code: trained on train + val, epoch chosen on test"
QUOTED = "as quoted there"

DREAM_DIFFUSION, BRAIN2IMAGE, BRAINVIS = "DreamDiffusion", "Brain2Image", "BrainVis"

# Table 1, quality of pictures: method, subject, GA, IS, FID.
_TABLE_1 = (
    (DREAM_DIFFUSION, "4", 0.4580, None, None),
    (BRAINVIS, "4", 0.4927, 31.5281, 121.0212),
    (BRAIN2IMAGE, "average", None, 5.07, None),
    ("NeuroVision", "average", None, 5.15, None),
    ("DCLS-GAN", "average", None, 6.64, None),
    ("EEGStyleGAN-ADA", "average", None, 10.82, 174.13),
    ("MB2C", "average", None, 12.85, 153.37),
    (BRAINVIS, "average", 0.4546, 30.9985, 126.6576),
)
# Table 2, classification: method, top-1, top-3, top-5, macro F1.
_TABLE_2 = (
    ("EEG-ChannelNet", 0.3130, None, None, None),
    (BRAIN2IMAGE, 0.1648, 0.3790, 0.5524, 0.1607),
    ("S-EEGNet", 0.2520, None, None, None),
    ("KD-STFT", 0.4120, 0.7530, 0.8782, 0.4027),
    (BRAINVIS, 0.4766, 0.7923, 0.9120, 0.4323),
)
# Table 3, top-1 accuracy by ablation.
_TABLE_3 = (
    ("full", 0.4766),
    ("no_time", 0.2943),
    ("no_frequency", 0.4397),
    ("no_pretraining", 0.2783),
    ("no_finetuning", 0.2495),
)
# Table 4, pictures by ablation of the encoder and of the cascade: encoder, cascade, GA, IS, FID.
_TABLE_4 = (
    ("no_frequency", "semantic stage alone", 0.1218, 16.5092, 255.3962),
    ("no_frequency", "refinement stage alone", 0.4147, 28.1505, 137.8096),
    ("no_frequency", "cascade", 0.4202, 29.5453, 132.8096),
    ("no_time", "semantic stage alone", 0.1291, 17.4441, 244.2778),
    ("no_time", "refinement stage alone", 0.2782, 28.5453, 129.0044),
    ("no_time", "cascade", 0.2876, 30.3657, 127.6774),
    ("full", "semantic stage alone", 0.1307, 17.8735, 242.9537),
    ("full", "refinement stage alone", 0.4501, 28.8167, 129.1161),
    ("full", "cascade", 0.4546, 30.9985, 126.6576),
)
# Table 5, what the time branch is pre-trained on: data, top-1 accuracy, GA, IS, FID.
_TABLE_5 = (
    ("same set (12k)", 0.4766, 0.4546, 30.9985, 126.6576),
    ("MOABB (120k)", 0.3413, 0.3127, 29.0601, 147.1737),
    ("both", 0.4739, 0.4523, 30.5221, 126.7201),
    ("none", 0.2783, 0.2386, 29.1481, 145.7066),
)
# Table 6, size of the codebook, without the frequency branch: codewords, top-1 accuracy.
_TABLE_6 = ((0, 0.4118), (220, 0.4382), (330, 0.4326), (660, 0.4397), (990, 0.3597))
# Table 7, backbone of the frequency branch: network, seconds an epoch, million parameters, top-1 accuracy.
_TABLE_7 = (("CNN", 75.7974, 5.1410, 0.2537), ("LSTM", 13.5687, 0.1538, 0.2578))

_TABLES = {
    1: (("method", "subject", "GA", "IS", "FID"), _TABLE_1),
    2: (("method", "top-1", "top-3", "top-5", "F1"), _TABLE_2),
    3: (("ablation", "top-1"), _TABLE_3),
    4: (("ablation", "pictures of", "GA", "IS", "FID"), _TABLE_4),
    5: (("pre-trained on", "top-1", "GA", "IS", "FID"), _TABLE_5),
    6: (("codewords", "top-1"), _TABLE_6),
    7: (("network", "seconds an epoch", "million parameters", "top-1"), _TABLE_7),
}


def reported_table(number: int) -> pd.DataFrame:
    """Table `number` of the paper as reported, every row with its data, protocol and source.

    Raises:
        KeyError: a table that is not kept here; lists those that are.
    """
    if number not in _TABLES:
        raise KeyError(f"table {number} is not kept here; there are {', '.join(map(str, _TABLES))}")
    columns, rows = _TABLES[number]
    frame = pd.DataFrame(rows, columns=columns)
    by_authors = frame["method"] == BRAINVIS if "method" in frame else pd.Series(True, frame.index)
    frame.insert(0, "kind", "reported")
    frame["data set"] = "EEGCVPR40"
    frame["protocol"] = by_authors.map({True: OURS, False: QUOTED})
    frame["source"] = f"{SOURCE}, table {number}"
    return frame
