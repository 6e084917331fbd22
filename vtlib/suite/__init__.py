"""The wing that holds the papers' tables and figures against finished runs.

items says which experiments each table and figure needs and what its paper claims, printed what the paper prints.
compare has the statistics of a difference and the rule of a verdict, calibrate measures how often that rule is wrong.
tables, verdicts and plots make what notebooks show, report writes it and gathers the last page, index writes the page
that fills up. exchange and crate send results to other people. choose checks the parameters of notebooks, explain the
formulas of losses; embeddings, cues and transfer look at what networks find: features, the cues of SynVT, images of
another set.
"""
