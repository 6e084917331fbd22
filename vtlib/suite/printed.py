"""The tables of both papers as they print them, and what is wrong or unclear in them.

Numbers are percent, exactly as printed, errors included. ERRORS says what is wrong, and the right value where it is
known. No measured number stands in this file.
"""

import pandas as pd

# What stands in the name of a row: that the equations are ours, or that a search looks at its gallery beforehand
SPIRIT, KNOWS = "in the spirit of", "knows the gallery"
# A header and a line for each row. "_" stands for a space in a row's name, "-" for a number that is not printed. A
# column is named "setting:metric"; a setting is the gallery, or the direction, that was searched
TABLES = {
    "S1.T1": """
method source all:rank1 all:rank10 all:rank20 all:mAP indoor:rank1 indoor:rank10 indoor:rank20 indoor:mAP
HCML          AAAI18    14.32 53.16 69.17 16.16 24.52 73.25 86.73 30.08
BDTR          IJCAI18   17.00 55.40 69.20 16.20 -     -     -     -
DRL           CVPR19    28.90 70.60 82.40 29.20 31.60 77.20 89.20 44.20
MAC           MM19      33.26 79.04 90.09 36.22 36.43 63.36 71.63 37.03
AlignGAN      ICCV19    42.40 85.00 93.70 40.70 45.90 87.60 94.40 54.30
CMSP          IJCV20    43.56 86.25 -     44.98 48.62 89.50 -     57.50
AGW           arXiv20   47.50 -     -     47.65 54.17 -     -     62.97
DFE           MM19      48.71 88.86 95.27 48.59 52.25 89.86 95.85 59.68
XIV           AAAI20    49.92 89.79 95.96 50.73 -     -     -     -
DDAG          ECCV20    54.75 90.39 95.81 53.02 61.02 94.06 98.41 67.98
HAT           TIFS20    55.29 92.14 97.36 53.89 62.10 95.75 99.20 69.37
NFS           CVPR21    56.91 91.34 96.52 55.45 62.79 96.53 99.07 69.69
DPAN+CMDC     this      57.74 90.53 96.27 54.35 61.56 94.86 98.34 68.13""",
    "S1.T2": """
method        source    v2t:rank1 v2t:rank10 v2t:rank20 v2t:mAP
HCML          AAAI18    24.44 47.53 56.78 20.80
BDTR          IJCAI18   33.56 58.61 67.43 32.76
DRL           CVPR19    43.40 66.10 76.30 44.10
MAC           MM19      36.43 62.36 71.63 44.10
AlignGAN      ICCV19    57.90 -     -     53.60
XIV           AAAI20    62.21 83.13 91.72 60.18
CMSP          IJCV20    65.07 83.71 -     64.50
DDAG          ECCV20    69.34 86.19 91.49 63.46
AGW           arXiv20   70.05 -     -     66.37
DFE           MM19      70.13 86.32 91.96 67.56
HAT           TIFS20    71.83 87.16 92.16 67.56
DPAN+CMDC     this      76.07 90.44 93.98 69.43""",
    "S1.T3": """
method        source    all:rank1 all:rank10 all:mAP
Baseline      this      51.35 85.80 49.48
Baseline+DPAN this      55.10 87.89 51.73
Baseline+CMDC this      54.69 87.19 51.12
DPAN+CMDC     this      57.74 90.53 54.35""",
    "S2.T1": """
method   source  single:rank1 single:mAP multi:rank1 multi:mAP
D2RL     CVPR19  28.9  29.2  -     -
DGD      TIP19   37.35 38.11 43.86 30.48
AlignGAN ICCV19  42.4  40.7  51.5  33.9
DFE      MM19    48.71 48.59 54.63 42.14
Hi-CMD   CVPR20  34.94 35.94 -     -
PIG      AAAI20  38.1  36.9  45.1  29.5
cmSSFT   CVPR20  47.7  54.1  57.4  59.1
Xmodal   AAAI20  49.92 50.73 -     -
CML      MM20    51.8  51.21 56.27 43.39
DDAG     ECCV20  54.75 53.02 -     -
DG-VAE   MM20    59.49 58.46 -     -
SIM      CVPR20  60.88 56.93 -     -
HC-TRI   TMM21   61.68 57.51 -     -
Ours     IJCAI21 64.82 60.81 68.05 51.48""",
    "S2.T2": """
method   source  v2t:rank1 v2t:mAP t2v:rank1 t2v:mAP
D2RL     CVPR19  -     -     43.4  44.1
AlignGAN ICCV19  57.9  53.6  56.3  53.4
DFE      MM19    70.13 69.14 67.99 66.70
Hi-CMD   CVPR20  -     -     70.93 66.04
PIG      AAAI20  48.50 49.3  48.1  48.90
Xmodal   AAAI20  62.21 60.18 -     -
CML      MM20    59.81 60.86 -     -
cmSSFT   CVPR20  65.4  65.6  63.8  64.2
DDAG     ECCV20  69.34 63.46 68.06 61.80
DG-VAE   MM20    72.97 71.78 -     -
SIM      CVPR20  75.29 74.47 78.30 75.24
HC-TRI   TMM21   91.05 83.28 89.30 81.46
Ours     IJCAI21 93.83 87.55 91.55 85.25""",
    "S2.T3": """
method              source t2v:rank1 t2v:mAP all:rank1 all:mAP
Baseline_(w/_Part)  this   64.71 63.10 48.15 48.39
HC-TRI              T1,T2  89.30 81.46 61.68 57.51
+MC_(w/_Part)       this   91.55 85.25 64.82 60.81
Baseline_(w/o_Part) this   40.34 38.16 35.55 34.97
+MC_(w/o_Part)      this   54.81 54.12 50.25 48.63""",
    "S2.T4": """
method              source t2v:rank1 t2v:mAP all:rank1 all:mAP
Baseline_(w/o_Part) this   40.34 38.16 35.55 34.97
+I2I                this   50.63 51.72 47.44 47.79
+C2I                this   51.70 51.99 48.59 46.92
+C2C                this   51.02 50.50 47.25 47.41
+I2I+C2C            this   51.26 52.22 49.01 47.67
+C2I+C2C            this   52.33 52.25 49.49 48.06
+I2I+C2I            this   53.30 52.23 49.41 49.81
+I2I+C2I+C2C        this   54.81 54.12 50.25 48.63""",
    "S2.T5": """
method               source t2v:rank1 t2v:mAP all:rank1 all:mAP
Baseline_(w/o_Part)  this   40.34 38.16 35.55 34.97
+MS_(MS_mining)      this   44.85 41.74 40.07 39.29
+MS_(Our_mining)     this   49.32 48.60 44.12 45.35
+AWL_(MS_mining)     this   46.75 46.03 41.65 40.39
+AWL_(w/o_weighting) this   49.85 49.04 44.46 46.39
+AWL                 this   50.63 51.72 47.44 47.79""",
    "S2.T6": """
method                source t2v:rank1 t2v:mAP all:rank1 all:mAP
Baseline_(w/o_Part)   this   40.34 38.16 35.55 34.97
+Triplet_Loss(Hard)   this   42.28 42.49 42.02 42.84
+MS_Loss(cm-Mining)   this   45.29 41.96 41.55 43.26
+Hc-Tri_Loss          this   48.59 45.22 38.84 38.90
+CML_Loss             this   50.29 48.34 44.36 44.25
+Our_Loss             this   54.81 54.12 50.25 48.63""",
    # A figure without numbers. Its point at lambda = 3 is a row of Table 3
    "S1.F4": """
method source all:rank1 all:mAP
3.0    this   57.74     54.35""",
    # What the authors of each system print, each in its own recipe
    "X.T3": """
method                   source all:rank1 v2t:rank1
HCML_on_TONE             own    14.32     24.44
BDTR                     own    17.0      33.47
D-HSME,_in_the_spirit_of own    20.68     50.85
MAC,_in_the_spirit_of    own    33.26     36.43
MSR,_in_the_spirit_of    own    37.35     48.43
CMSP,_in_the_spirit_of   own    43.56     65.07
AGW                      own    47.5      70.05
DFE,_in_the_spirit_of    own    48.71     70.13
XIV                      own    49.92     62.21
MACE,_in_the_spirit_of   own    51.64     72.37
CML,_in_the_spirit_of    own    51.8      59.81
DDAG                     own    54.75     69.34
HAT,_in_the_spirit_of    own    55.29     71.83
S1                       own    57.74     76.07
HC-Tri                   own    61.68     91.05
S2                       own    64.82     93.83
MMD-ReID                 own    66.75     95.06
CAJ                      own    69.88     85.03
DEEN                     own    74.7      91.1""",
}
NO_DIRECTION = "RegDB has one column without a direction: thermal to visible, since +MC (w/ Part) repeats Table 2."
ERRORS = {
    "S1.T1": [
        "BDTR: rank-20 69.20 and mAP 16.20 repeat HCML's; its own paper has 17.0 / 55.4 / 72.0 / 19.7.",
        "MAC: the indoor columns repeat its RegDB row.",
        "NFS: indoor mAP is 69.8 in its own paper.",
    ],
    "S1.T2": [
        "MAC: mAP 44.10 repeats DRL's; its own paper has 37.03. Rank-10 is 62.36 here and 63.36 in Table 1.",
        "DFE: mAP 67.56 repeats HAT's; its own paper has 69.14.",
    ],
    "S1.T3": [
        "The last row is printed as 'DCAN'; the text and the abstract call the network DPAN.",
        "Alone the two parts give +3.75 and +3.34 rank-1; together +6.39, less than their sum of 7.09.",
    ],
    "S1.F4": ["A figure without numbers: only the value at lambda = 3 is printed, in Table 3."],
    "S1.F5": [
        "A figure without numbers. It does not say which identities are the validation ones; RegDB has none of its own."
    ],
    "S2.T1": [
        "SIM: a pre-release of its code has rank-1 56.93, mAP 60.88: the same two in the other order, for ten shots.",
        "SIM appeared at IJCAI20, not CVPR20. DGD, PIG and Xmodal are called MSR, JSIA and XIV elsewhere.",
        "cmSSFT is the only method whose multi-shot mAP lies above its single-shot one; 59.1 is above Ours, 51.48.",
        "The text gives SYSU-MM01 287,628 visible images, frames of videos included; those for training are right.",
    ],
    "S2.T2": ["D2RL and Hi-CMD stand under thermal to visible; other papers list these numbers as visible to thermal."],
    "S2.T3": [
        "The text says that the baseline with parts is [Liu and Tan], trained with identity and HC-Tri loss; it prints "
        "48.15 / 48.39 where Table 1 prints 61.68 / 57.51 for HC-TRI: most likely it is the part network with identity "
        "loss alone. So MC's gain is +16.67 rank-1 over the printed baseline, but +3.14 over HC-TRI, whose row is that "
        "of Tables 1 and 2.",
        NO_DIRECTION,
    ],
    "S2.T4": [
        "The text says that all three constraints together are best; on SYSU-MM01 I2I+C2I has the higher mAP, 49.81.",
        NO_DIRECTION,
    ],
    "S2.T5": [
        "+MS (MS mining) here and +MS Loss(cm-Mining) in Table 6 are one system as described, with two results: "
        "40.07 / 39.29 and 41.55 / 43.26 on SYSU-MM01, 44.85 / 41.74 and 45.29 / 41.96 on RegDB.",
        NO_DIRECTION,
    ],
    "S2.T6": [
        "+MS Loss(cm-Mining) here and +MS (MS mining) in Table 5 are one system as described, with two results.",
        "Hc-Tri 38.84 is without parts and re-run by the authors; with its own parts and recipe it prints 61.68.",
        NO_DIRECTION,
    ],
    "S2.F1": ["A drawing, not data: no similarity is printed."],
    "S2.F3": ["A drawing, not data."],
    "S2.F4": ["A drawing, not data: how many pairs each mining keeps is not printed."],
    "X.T1": ["No paper crosses the two: nothing is printed."],
    "X.T3": ["Each number is of the system's own paper or code, with its own network, recipe and protocol."],
    "X.T4": ["What a part adds is printed for few systems and on other data."],
    "X.T5": ["No paper prints these."],
    "X.T2": ["No paper says where its loss acts: nothing is printed."],
}


def rows(item: str) -> pd.DataFrame:
    """The printed numbers of a table, one in each row: row, source, setting, metric, printed (percent; NaN for "-").

    Args: item: key of the table, as "S1.T1"; the frame is empty where it prints no number.
    """
    columns = ["row", "source", "setting", "metric", "printed"]
    if item not in TABLES:
        return pd.DataFrame(columns=columns)
    header, *lines = [line.split() for line in TABLES[item].strip().splitlines()]
    wide = pd.DataFrame(lines, columns=header).rename(columns={"method": "row"})
    wide["row"] = wide.row.str.replace("_", " ")
    long = wide.melt(["row", "source"], value_name="printed")
    long[["setting", "metric"]] = long.pop("variable").str.split(":", expand=True).to_numpy()
    long["printed"] = pd.to_numeric(long.printed.replace("-", None))
    return long[columns]
