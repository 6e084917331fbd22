"""Each system beside what its published functions give on documented inputs."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import cases, modality_of, probe, same
from torch import nn

from vtlib import evaluate, model, ranking, train
from vtlib.config import experiment
from vtlib.systems import LOSSES, agw, colours, ddag, deen, hcml, mac, sim, xiv


def value_and_gradient(name, features, labels, modality, **options):
    features = features.clone().requires_grad_()
    value = LOSSES[name](features, torch.as_tensor(labels), modality, **options)
    value.backward()
    return value.detach(), features.grad


def fill(layer, inputs, name):
    """Weights of a convolution, a linear layer or a batch norm from the entries `name.*` of a case."""
    if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
        pairs = {"gamma": layer.weight, "beta": layer.bias, "mean": layer.running_mean, "variance": layer.running_var}
        for key, place in pairs.items():
            if f"{name}.{key}" in inputs:
                place.data.copy_(inputs[f"{name}.{key}"])
    else:
        layer.weight.data.copy_(inputs[f"{name}.weight"].reshape(layer.weight.shape))
        if f"{name}.bias" in inputs:
            layer.bias.data.copy_(inputs[f"{name}.bias"])


def test_weighted_regularised_triplet(shared):
    n = 0
    for case, x in cases(shared, "agw_wrt", "wrt"):
        labels, out = case["settings"]["labels"], case["outputs"]
        modality = modality_of(labels, case["settings"])
        features = F.normalize(x["features"]) if case["settings"].get("normalise") else x["features"]
        for key, include in (("as_printed_anchor_excluded", False), ("exact_softmax_anchor_included", True)):
            if out[key] is None:
                with pytest.raises(ValueError, match="has one image in the batch"):
                    value_and_gradient("weighted_regularised_triplet", features, labels, modality)
                continue
            value, grad = value_and_gradient(
                "weighted_regularised_triplet", features, labels, modality, include_anchor=include
            )
            same(value, out[key]["loss"], 1e-5 if include else 1e-9)
            if not case["settings"].get("normalise"):
                same(grad, out[key]["gradient"], 1e-4 if include else 1e-8)
            n += 1
    assert n == 13


def test_enhanced_squared_difference(shared):
    for case, x in cases(shared, "caj", "adp"):
        settings, out = case["settings"], case["outputs"]
        if settings.get("alpha", 1) != 1:
            continue  # weights of sharper softmax, which no recipe has
        for key, include in (("exact_softmax_anchor_excluded", False), ("exact_softmax_anchor_included", True)):
            value, grad = value_and_gradient(
                "weighted_regularised_triplet", x["features"], settings["labels"],
                modality_of(settings["labels"], {}), include_anchor=include, squared=bool(settings["square"]),
                gamma=float(settings["gamma"]),
            )  # fmt: skip
            same(value, out[key]["loss"], 1e-4 if include else 1e-9)
            same(grad, out[key]["gradient"], 1e-3 if include else 1e-8)


def test_exchange_of_channels(shared):
    for case, x in cases(shared, "caj", "channels"):
        image, out = x["image"], case["outputs"]
        for choice in range(3):
            for kind, name, of in (("exchange", "second_view", 3), ("caj", "thermal", 4)):
                numbers = torch.tensor([[(choice + 0.5) / of, 0.9, 0, 0]])
                made = colours.recolour(image[None], *colours.mixes(kind, numbers))[0]
                same(made, out[f"{name}_choice_{choice}"], 1e-6)
        grey = colours.recolour(image[None], *colours.mixes("caj", torch.tensor([[0.9, 0.2, 0, 0]])))[0]
        assert grey[0].allclose(grey[2])


@pytest.mark.parametrize(
    ("system", "function", "name"),
    [("agw_other", "batch_hard", "batch_hard_triplet"), ("hc_tri", "centre_triplet", "hetero_center_triplet")],
)
def test_losses_of_the_field(shared, system, function, name):
    for case, x in cases(shared, system, function):
        labels, settings = case["settings"]["labels"], case["settings"]
        modality = modality_of(labels, settings)
        if case["name"] == "batch_hard_ragged":  # an identity of one row, which counts as its own positive there
            with pytest.raises(ValueError, match="has one image in the batch"):
                value_and_gradient(name, x["features"], labels, modality)
            continue
        value, grad = value_and_gradient(name, x["features"], labels, modality, margin=settings["margin"])
        same(value, case["outputs"]["as_coded"]["loss"], 2e-6 if function == "batch_hard" else 1e-9)
        same(grad, case["outputs"]["as_coded"]["gradient"], 1e-7)


def test_gem(shared):
    for case, x in cases(shared, "agw_other", "gem"):
        maps = x["map"].clone().requires_grad_()
        pooled, p = model.GeM(case["settings"]["p"])(maps), case["settings"]["p"]
        stored = np.array(case["outputs"]["own_loop"]["pooled"])
        above = stored > 1.01 * 1e-12 ** (1 / p)  # there 1e-12 stands under the root, a floor which ours has not
        np.testing.assert_allclose(pooled.detach().numpy()[above], stored[above], rtol=1e-5)
        (pooled * probe(pooled.shape)).sum().backward()
        gradient = np.array(case["outputs"]["own_loop"]["gradient_of_probe_dot"])
        np.testing.assert_allclose(maps.grad.numpy()[above], gradient[above], rtol=1e-4, atol=1e-4)


def test_schedules(shared):
    methods = {"agw": "agw", "caj": "caj", "ddag": "ddag", "deen": "deen", "mmd_reid": "margin_mmd", "hc_tri": "hc_tri"}
    for case, _ in cases(shared, "agw_other", "schedule_agw"):
        for system, method in methods.items():
            made = experiment("paper", method)
            for first, last, fast, slow in case["outputs"][system]["runs_first_last_fast_slow"]:
                for epoch in range(first, min(last, made.epochs - 1) + 1):
                    lr = train.learning_rate(made, epoch)
                    assert (lr, lr * made.backbone_lr_factor) == pytest.approx((fast, slow), rel=1e-6), (system, epoch)


@pytest.mark.parametrize("layout", ["regdb", "sysu"])
def test_metrics(shared, layout):
    for case, x in cases(shared, "agw_other", f"metrics_{layout}"):
        s, out = case["settings"], case["outputs"]
        query, gallery = np.array(s["query_ids"]), np.array(s["gallery_ids"])
        hidden, distinct = None, layout == "sysu"
        if distinct:
            hidden = evaluate.same_place(np.array(s["query_cams"]), np.array(s["gallery_cams"]))
            scores = np.where(hidden, -np.inf, -x["distance"].numpy())
            order = np.argsort(query, kind="stable")
            ranked = ranking.search(scores[order], query[order], gallery, True)
            found = ranking.mean_over_queries(ranked, len(set(gallery)))
        else:
            found = ranking.rank_metrics(-x["distance"], query, gallery)
        same([found.mAP, found.mINP], [out["mAP"], out["mINP"]], 1e-6)
        same(found.cmc[:20], out["cmc"][:20], 1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_non_local(shared, training):
    for case, x in cases(shared, "agw_nonlocal", "non_local"):
        c, out = x["map"].shape[1], case["outputs"]
        block = agw.NonLocal(c, case["settings"]["width"]).double().train(training)
        assert torch.equal(block(x["map"]), x["map"]) and out["equals_input_at_start"]
        assert sum(p.numel() for p in block.parameters()) == out["parameters"]
        block = agw.NonLocal(c, case["settings"]["width"]).double().train(training)
        for layer, name in ((block.theta, "query"), (block.phi, "key"), (block.g, "value"), (block.back, "back")):
            fill(layer, x, name)
        fill(block.norm, x, "norm")
        stored, maps = out["train" if training else "eval"], x["map"].clone().requires_grad_()
        made = block(maps)
        same(made, stored["output"])
        (made * probe(made.shape)).sum().backward()
        same(maps.grad, stored["gradient_map"], 1e-8)
        if training:
            same(block.norm.running_var, stored["norm.variance_after"])


def test_bidirectional_ranking(shared):
    for case, x in cases(shared, "bdtr", "bdtr_loss"):
        settings, out = case["settings"], case["outputs"]["own_loop"]
        n, labels = len(x["features"]), settings["labels"]
        labels = labels if len(labels) == n else labels * 2
        modality = modality_of(labels, settings)
        options = {key: settings[key] for key in ("margin", "intra_margin", "intra_weight")}
        value, grad = value_and_gradient("bidirectional_ranking", x["features"], labels, modality, **options)
        same(value, out["loss"], 1e-8)
        same(grad, out["gradient"], 1e-7)


def test_margin_mmd(shared):
    for case, x in cases(shared, "mmd_reid", "margin_mmd"):
        p, k, margin = (case["settings"][key] for key in ("people", "images", "margin"))
        labels = torch.arange(p).repeat_interleave(k).repeat(2)
        value, grad = value_and_gradient(
            "margin_mmd", x["features"], labels, modality_of(labels, {}), margin=-1.0 if margin is None else margin
        )
        same(value, case["outputs"]["as_coded"]["loss"], 1e-8)
        same(grad, case["outputs"]["as_coded"]["gradient"], 1e-7)


def test_distribution_alignment(shared):
    for case, x in cases(shared, "mmd_reid", "whole_mmd"):
        features = x["features"]
        n = len(features)
        local = features[:, None].clone().requires_grad_()
        labels = torch.zeros(n).long()
        value = LOSSES["distribution_alignment"](features, labels, modality_of(labels, {}), local=local)
        value.backward()
        same(value, case["outputs"]["as_coded"]["loss"], 1e-8)
        same(local.grad[:, 0], case["outputs"]["as_coded"]["gradient"], 1e-7)


def test_centre_pairs_of_xiv(shared):
    for case, x in cases(shared, "xiv", "centre_pairs"):
        first, second, p = x["first"], x["second"], len(x["first"])
        # centres as batches of one image: thermal, visible, and X equal to the visible
        features = torch.cat([second, first, second])
        modality = torch.arange(3).repeat_interleave(p) == 1
        source = torch.cat([torch.full((2 * p,), -1), torch.arange(p)])
        value = LOSSES["centre_triplet"](features, torch.arange(p).repeat(3), modality.long(), source=source)
        same(value, 2 * case["outputs"]["as_printed"]["loss"])


def test_whole_step_of_xiv(shared):
    for case, x in cases(shared, "xiv", "whole_step"):
        labels, out = torch.tensor(case["settings"]["labels"]), case["outputs"]
        n = len(labels)
        modality = torch.cat([torch.arange(n) % 2, torch.zeros(n // 2).long()])
        source = torch.cat([torch.full((n,), -1), torch.arange(0, n, 2)])
        labels = torch.cat([labels, labels[::2]])
        features, logits = x["features"].clone().requires_grad_(), x["logits"]
        triplet = LOSSES["within_view_triplet"](features, labels, modality, source=source)
        centre = LOSSES["centre_triplet"](features, labels, modality, source=source)
        identity = 3 * LOSSES["id"](logits, labels, modality, smoothing=0.1)  # the three views are of one size
        (triplet + 0.2 * centre + identity).backward()
        same(triplet + 0.2 * centre + identity, out["as_printed"]["total"])
        same(features.grad, out["as_printed"]["gradient_features"], 1e-8)
        terms = out["centre_terms"]
        same(centre, terms["thermal_visible_as_printed"] + terms["thermal_x_as_printed"])


def test_x_module(shared):
    for case, x in cases(shared, "xiv", "x_module"):
        made = xiv.XModality().double()
        if not case["settings"].get("start"):
            fill(made.mix, x, "in")
            fill(made.spread, x, "out")
        n = len(x["images"])
        images, streams = made(x["images"], torch.zeros(n).long(), torch.arange(n) % 2, torch.empty(n, 0), None)
        same(images[n:], case["outputs"]["as_coded"]["x_images"], 1e-7)
        assert torch.equal(images[:n], x["images"]) and not streams[n:].any()


def test_tri_directional(shared):
    for case, x in cases(shared, "hat", "tri_directional"):
        of_one, out = torch.tensor(case["settings"]["labels"]), case["outputs"]["own_distances"]
        n = len(of_one)
        labels, modality = of_one.repeat(3), torch.tensor([0, 1, 0]).repeat_interleave(n)
        source = torch.cat([torch.full((2 * n,), -1), torch.arange(n)])
        options = {"source": source, "margin": case["settings"]["margin"]}
        for weighting, regulariser, key in ((True, 0.0, "weighted"), (False, 0.0, "tdr")):
            value, grad = value_and_gradient(
                "tri_directional", x["features"], labels, modality, weighting=weighting, regulariser=regulariser,
                **options,
            )  # fmt: skip
            same(value, out[key])
            if case["name"] != "hand":  # which sits on the corner of a hinge
                same(grad, out[f"gradient_{key}"], 1e-8)
        both = LOSSES["tri_directional"](x["features"], labels, modality, regulariser=1.0, **options)
        same(both, out["weighted"] + out["regulariser"])


@pytest.mark.parametrize("training", [False, True])
def test_part_attention(shared, training):
    for case, x in cases(shared, "ddag", "part_attention"):
        c, out = x["map"].shape[1], case["outputs"]
        head = ddag.PartAttention(c, 2, nn.Identity(), parts=case["settings"]["parts"]).double()
        for layer, name in ((head.u, "query"), (head.v, "key"), (head.w, "value")):
            fill(layer, x, name)
        fill(head.norm, x, "norm")
        head.theta.data.copy_(x["gate"])
        context = head.context(x["map"])
        same(context, out["own_loop"]["context"])
        head.norm.train(training)
        same(head.norm(x["feature"] + context), out["train" if training else "eval"]["output"])


def test_graph_attention(shared):
    for case, x in cases(shared, "ddag", "graph"):
        settings, features = case["settings"], x["features"].clone().requires_grad_()
        made = ddag.GraphAttention(
            settings["classes"], features.shape[1], heads=settings["heads"], hidden=settings["width"]
        ).double()
        made.eval()
        for i in range(settings["heads"]):
            made.weight.data[i] = x[f"head{i}.weight"]
            made.pairs.data[i] = x[f"head{i}.pair"].reshape(2, -1)
        made.last.data[0], made.last_pairs.data[0] = x["last.weight"], x["last.pair"].reshape(2, -1)
        labels = torch.tensor(settings["labels"])
        value = made(features, labels, torch.zeros_like(labels))
        value.backward()
        same(value, case["outputs"]["as_coded"]["loss"])
        same(features.grad, case["outputs"]["as_coded"]["gradient_features"], 1e-8)


def test_dynamic_weight(shared):
    for case, _ in cases(shared, "ddag", "dynamic_weight"):
        s, made = case["settings"], ddag.GraphAttention(2, 2)
        means = [np.average(v, weights=b) for v, b in zip(s["base_losses"], s["batch_sizes"], strict=True)]
        found = [made.factor(e, None if e == 0 else means[e - 1]) for e in range(len(means) + 1)]
        stored = case["outputs"]["own_loop"]["weight_of_epoch"]
        same(found[: len(stored)], stored)


def test_centre_pull_mining(shared):
    for case, x in cases(shared, "deen", "cpm"):
        labels = torch.tensor(case["settings"]["labels"])
        plain, expanded = (x[name].clone().requires_grad_() for name in ("plain", "expanded"))
        local = torch.stack([plain, expanded, expanded], 1)
        value = LOSSES["centre_pull_mining"](plain, labels, modality_of(labels, {}), local=local) / 2
        value.backward()
        out = case["outputs"]
        same(value, out["own_loop"]["loss"])
        same(plain.grad, out["as_coded"]["gradient_plain"], 1e-8)
        same(expanded.grad, out["as_coded"]["gradient_expanded"], 1e-8)


def test_branch_orthogonality(shared):
    for case, x in cases(shared, "deen", "orthogonality"):
        local = x["pooled"].unflatten(0, (3, -1)).transpose(0, 1)
        labels = torch.zeros(len(local)).long()
        value = LOSSES["branch_orthogonality"](local[:, 0], labels, labels, local=local)
        same(value, case["outputs"]["as_coded_lines"]["loss"])


def test_aggregation(shared):
    for case, x in cases(shared, "deen", "aggregation"):
        high, low, step = x["high"], x["low"], case["settings"]["stride"]
        made = deen.Aggregation(nn.Identity(), high.shape[1], low.shape[1], step).double().eval()
        assert torch.equal(made.places(made.channels(high, low), low), high)
        assert sum(p.numel() for p in made.parameters()) == case["outputs"]["parameters"]
        for prefix, place in (("", "channel"), ("at_", "position")):
            for name in ("query", "key", "value", "back", "norm"):
                fill(getattr(made, prefix + name), x, f"{place}.{name}")
        between = made.channels(high, low)
        same(between, case["outputs"]["eval"]["after_channel_block"])
        same(made.places(between, low), case["outputs"]["position_tokens_as_printed"]["output_eval"])


def test_expansion(shared):
    for case, x in cases(shared, "deen", "expand"):
        made, out = deen.Expansion(x["map"].shape[1], 0.0).double(), case["outputs"]
        for b, (wide, up) in enumerate(zip(made.wide, made.up, strict=True), 1):
            for d, layer in enumerate(wide, 1):
                layer.weight.data.copy_(x[f"branch{b}.dilation{d}"])
            fill(up, x, f"branch{b}.up")
        first, second, last = made(x["map"]).tensor_split(3)
        assert torch.equal(first, x["map"])
        same(second, out["second_third"])
        same(last, out["last_third"])
        assert sum(p.numel() for p in made.parameters()) == out["parameters"]


def test_modality_classifiers(shared):
    for case, x in cases(shared, "mac", "mutual"):
        s, out = case["settings"], case["outputs"]
        labels, modality, features = torch.tensor(s["labels"]), torch.tensor(s["modality"]), x["features"]
        logits, card = features @ x["shared"].mT, out["own_loop_of_the_card"]

        def value(x=x, s=s, features=features, labels=labels, modality=modality, logits=logits, **options):
            made = mac.ModalityClassifiers(s["classes"], features.shape[1], **options).double()
            made.weight.data.copy_(torch.stack([x["visible"], x["thermal"]]))
            if options.get("slow"):
                made.copy.copy_(torch.stack([x["slow_visible"], x["slow_thermal"]]))
            return made(features, labels, modality, logits=logits).detach(), made

        own = value(ensemble=False, collaboration_weight=0.0)[0]
        same(own, card["specific"])
        same(value(collaboration_weight=0.0)[0] - own, card["ensemble"])
        same(value(ensemble=False)[0] - own, card["collaboration_ensemble"])
        same(value(ensemble=False, collaboration="other")[0] - own, card["collaboration_other"])
        slow, made = value(ensemble=False, collaboration="other", slow=s["update_rate"])
        same(slow - own, out["as_coded"]["kl"])
        same(made.copy[0], out["as_coded"]["slow_visible_after"])


@pytest.mark.parametrize("graph", [True, False])
def test_sim(shared, graph):
    for case, x in cases(shared, "sim", "sim_rerank_both"):
        s, out = case["settings"], case["outputs"]
        query, gallery = x["both"][: s["query_rows"]], x["both"][s["query_rows"] :]
        setting = sim.Setting(s["lambda"], s["k"], s["k0"], s["mix"], s["k1"])
        if graph:
            same(sim.sim(query, gallery, setting, mutual=False), out["sgr_order_free"])
            same(sim.sim(query, gallery, setting), out["sim_order_free"], 1e-8)
        elif "mnnr_of_base" in out:
            same(sim.sim(query, gallery, setting, graph=False), out["mnnr_of_base"], 1e-8)
        if s.get("permute"):
            order = torch.tensor(out["permutation"])
            torch.testing.assert_close(
                sim.sim(query, gallery[order], setting), sim.sim(query, gallery, setting)[:, order]
            )


def test_similarity_graph_by_hand(shared):
    for case, x in cases(shared, "sim", "sim_hand"):
        s = case["settings"]
        found = sim.similarity_graph(x["distance"], x["gallery_distance"], lam=s["lambda"], k=s["k"])
        same(found, case["outputs"]["sgr_order_free"])


def test_sim_in_trials(shared):
    for case, x in cases(shared, "sim", "sim_trials"):
        s, n = case["settings"], len(case["settings"]["query_ids"])
        images = [(p, c, i) for p in range(1, s["people"] + 1) for c in (1, 2, 4, 5) for i in range(1, s["images"] + 1)]
        held = [
            k for k, (p, c, _) in enumerate(images) if [p, c] not in s["lacks"] and p not in s["not_in_gallery"]
        ]  # fmt: skip
        pids = [*s["query_ids"], *(images[k][0] for k in held)]
        cams = [*s["query_cams"], *(images[k][1] for k in held)]
        numbers = [*range(1, n + 1), *(images[k][2] for k in held)]
        features = torch.cat([x["everyone"][:n], x["everyone"][n:][held]])
        order = np.argsort(x["shuffle"].numpy(), axis=-1) + 1  # (trials, cameras, people, images)
        permutations = {
            (cam, p): order[:, c, p - 1] for c, cam in enumerate((1, 2, 4, 5)) for p in range(1, s["people"] + 1)
        }
        search = evaluate.SysuSearch(features, pids, cams, numbers)
        kind = s["mode"], s["shots"], "official", permutations, s["trials"]
        for name, compare in (("base", None), ("sim_order_free", partial(sim.search, layout="sysu"))):
            for trial, (ranked, columns) in enumerate(search.ranked(*kind, compare=compare)):
                metrics = ranking.mean_over_queries(ranked, len(set(search.pids[columns])))
                stored = case["outputs"]["trials"][trial][name]
                same(metrics.mAP, stored["mAP"], 1e-8)
                same([metrics.cmc[k - 1] for k in (1, 5, 10, 20)], list(stored["rank"].values()), 1e-8)


def test_hcml(shared):
    for case, x in cases(shared, "hcml", "hcml_cut"):
        s, out = case["settings"], case["outputs"]["own_loop"]
        n = len(s["visible_labels"])
        labels = [torch.tensor(s[f"{m}_labels"]) for m in ("visible", "thermal")]
        data = hcml.cut(x["rows"][:n], labels[0], x["rows"][n:], labels[1])
        same(data.threshold, out["threshold"])
        eye = torch.eye(x["rows"].shape[1], dtype=torch.double)
        v, t, m = eye + x["map_visible"], eye + x["map_thermal"], x["root"] @ x["root"].mT
        by_m, by_v, by_t, in_v, in_t = hcml.gradients(data, v, t, m)
        drawn = out["at_drawn_point"]
        same(hcml.objective(data, v, t, m), drawn["F"])
        for found, name in ((by_m, "M"), (by_v + 0.2 * in_v, "V"), (by_t + 0.2 * in_t, "T")):
            same(found, drawn[f"gradient_{name}"], 1e-8)
        maps, history = hcml.solve(data, s["steps"], enough=0.0)
        exact = out["exact_gradients"]
        for found, name in ((maps.m, "M"), (maps.v, "V"), (maps.t, "T")):
            same(found, exact[name], 1e-8)
        for found, stored in zip(history, exact["history"], strict=True):
            same(list(found.values()), list(stored.values()), 1e-8)
