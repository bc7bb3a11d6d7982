"""LGN-Net and its relatives a second time, slowly: loops and torch.nn.functional, straight from the equations.

The equations are those of arXiv 2211.07454. Nothing here imports lgn_net; the tests compare the two. Weights come as a
flat dict with the names of the authors' checkpoint files, widths are read off the tensors, so everything runs at any
size. Where paper and authors' code part, this is the code, the only public one, unless an argument says otherwise.

Letters: B clips, n input frames, C channels, H W pixels, N = B*h*w queries, M items, D feature width.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

torch.set_num_threads(1)           # on tensors this small, threads only wait for each other

State = dict[str, Tensor]          # name in the authors' files -> tensor


# ---------------------------------------------------------------------------------------- layers and branches

def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Odd kernel, same padding, a bias when the file has one."""
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)


def batch_norm(state: State, name: str, x: Tensor, training: bool) -> Tensor:
    """(x - mean) / sqrt(var + 1e-5) * weight + bias per channel of x (B, C, H, W).

    Training: mean and (biased) variance of this batch; the running ones move by 0.1, the variance to the unbiased one.
    """
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        running_mean, running_var, count = mean, var, x.numel() / x.shape[1]
        mean = x.mean(dim=(0, 2, 3))
        var = ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
        with torch.no_grad():
            running_mean.copy_(0.9 * running_mean + 0.1 * mean)
            running_var.copy_(0.9 * running_var + 0.1 * var * count / (count - 1))
            state[f"{name}.num_batches_tracked"] += 1
    x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def conv_br(state: State, block: str, index: int, x: Tensor, training: bool, stride: int = 1) -> Tensor:
    """Layers `index` (convolution), `index + 1` (BatchNorm) and a ReLU of a block."""
    return torch.relu(batch_norm(state, f"{block}.{index + 1}", conv(state, f"{block}.{index}", x, stride), training))


def two_convs(state: State, block: str, x: Tensor, training: bool) -> Tensor:
    """Two convolutions, each with BatchNorm and ReLU."""
    return conv_br(state, block, 3, conv_br(state, block, 0, x, training), training)


def up_br(state: State, block: str, index: int, x: Tensor, training: bool) -> Tensor:
    """Transposed convolution to twice the size, BatchNorm, ReLU."""
    x = F.conv_transpose2d(x, state[f"{block}.{index}.weight"], state[f"{block}.{index}.bias"],
                           stride=2, padding=1, output_padding=1)
    return torch.relu(batch_norm(state, f"{block}.{index + 1}", x, training))


def st_lstm_cell(state: State, name: str, x: Tensor, H: Tensor, C: Tensor, M: Tensor,
                 forget_bias: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """One ST-LSTM cell, gate by gate, * a 3x3 convolution without bias (PredRNN; the forget bias is the code's).

    i = sig(W_xi * x + W_hi * H)    f = sig(W_xf * x + W_hf * H + 1)     g = tanh(W_xg * x + W_hg * H)    C' = f C + i g
    i'= sig(W'_xi * x + W_mi * M)  f'= sig(W'_xf * x + W_mf * M + 1)  g'= tanh(W'_xg * x + W_mg * M)  M' = f'M + i'g'
    o = sig(W_xo * x + W_ho * H + W_co * C' + W_mo * M')                 H' = o tanh(W_1x1 * [C', M'])
    The files stack the gates' filters: of x in the order i f g i' f' g' o, of H i f g o, of M i' f' g'.
    """
    hidden = H.shape[1]

    def gate(source: str, position: int, value: Tensor) -> Tensor:
        weight = state[f"{name}.conv_{source}.0.weight"]
        return F.conv2d(value, weight[position * hidden:(position + 1) * hidden], padding=1)

    i = torch.sigmoid(gate("x", 0, x) + gate("h", 0, H))
    f = torch.sigmoid(gate("x", 1, x) + gate("h", 1, H) + forget_bias)
    g = torch.tanh(gate("x", 2, x) + gate("h", 2, H))
    C = f * C + i * g
    i = torch.sigmoid(gate("x", 3, x) + gate("m", 0, M))
    f = torch.sigmoid(gate("x", 4, x) + gate("m", 1, M) + forget_bias)
    g = torch.tanh(gate("x", 5, x) + gate("m", 2, M))
    M = f * M + i * g
    both = torch.cat([C, M], dim=1)
    o = torch.sigmoid(gate("x", 6, x) + gate("h", 3, H) + conv(state, f"{name}.conv_o.0", both))
    return o * torch.tanh(conv(state, f"{name}.conv_last", both)), C, M


def stp_net(state: State, features: list[Tensor]) -> Tensor:
    """x_1..x_n (B, 2*width, h, w) -> cat(H, M) (B, 2*hidden, h, w) of the top layer after the last frame.

    M climbs the layers within a frame and enters layer 1 of the next one.
    """
    layers = len([name for name in state if name.endswith("conv_last.weight")])
    hidden = state["pred.convlstm_list.0.conv_last.weight"].shape[0]
    zero = torch.zeros(features[0].shape[0], hidden, *features[0].shape[2:])
    H, C, M = layers * [zero], layers * [zero], zero
    for x in features:
        for k in range(layers):
            H[k], C[k], M = st_lstm_cell(state, f"pred.convlstm_list.{k}", x, H[k], C[k], M)
            x = H[k]
    return torch.cat([H[-1], M], dim=1)


def conv_lstm_cell(state: State, name: str, x: Tensor, H: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """One ConvLSTM cell without peepholes, * a 3x3 convolution; those of x and of H have a bias each.

    i = sig(W_xi * x + W_hi * H)   f = sig(W_xf * x + W_hf * H)   g = tanh(W_xg * x + W_hg * H)   C' = f C + i g
    o = sig(W_xo * x + W_ho * H)   H' = o tanh(C')
    The filters of the gates are stacked in the order i f g o.
    """
    gates = conv(state, f"{name}.conv_x.0", x) + conv(state, f"{name}.conv_h.0", H)
    i, f, g, o = gates.split(H.shape[1], dim=1)
    C = torch.sigmoid(f) * C + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(C), C


def conv_lstms(state: State, features: list[Tensor]) -> Tensor:
    """The same of LGN-ST and Loc-Net: x_1..x_n (B, 2*width, h, w) -> cat(H, C) (B, 2*hidden, h, w) of the top layer."""
    layers = len([name for name in state if name.endswith("conv_h.0.weight")])
    hidden = state["pred.convlstm_list.0.conv_h.0.weight"].shape[1]
    zero = torch.zeros(features[0].shape[0], hidden, *features[0].shape[2:])
    H, C = layers * [zero], layers * [zero]
    for x in features:
        for k in range(layers):
            H[k], C[k] = conv_lstm_cell(state, f"pred.convlstm_list.{k}", x, H[k], C[k])
            x = H[k]
    return torch.cat([H[-1], C[-1]], dim=1)


def e_loc(state: State, frame: Tensor, training: bool) -> Tensor:
    """frame (B, C, H, W) -> x_t (B, 2*width, H/4, W/4)."""
    x = frame
    for index, stride in ((0, 2), (3, 1), (6, 2), (9, 1)):
        x = conv_br(state, "pred.encoder", index, x, training, stride)
    return x


def local_branch(state: State, clip: Tensor, training: bool, recur: Callable = stp_net) -> Tensor:
    """clip (B, n, C, H, W) -> F'_loc (B, width, H, W); E_loc sees the frames one by one."""
    top = recur(state, [e_loc(state, frame, training) for frame in clip.unbind(1)])
    return up_br(state, "st_decoder", 3, up_br(state, "st_decoder", 0, top, training), training)


def e_glo(state: State, clip: Tensor, training: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """clip (B, n, C, H, W) -> what the three blocks yield before they are pooled, and F_lat.

    Frames are stacked oldest first; the last convolution is bare.
    """
    x1 = two_convs(state, "encoder.moduleConv1", torch.cat(clip.unbind(1), dim=1), training)    # (B, width, H, W)
    x2 = two_convs(state, "encoder.moduleConv2", F.max_pool2d(x1, 2), training)                 # (B, 2*width, H/2, W/2)
    x3 = two_convs(state, "encoder.moduleConv3", F.max_pool2d(x2, 2), training)                 # (B, 4*width, H/4, W/4)
    x4 = conv_br(state, "encoder.moduleConv4", 0, F.max_pool2d(x3, 2), training)
    return x1, x2, x3, conv(state, "encoder.moduleConv4.3", x4)                                 # (B, 8*width, H/8, W/8)


def decoder(state: State, bottom: Tensor, training: bool, skip4: Sequence[Tensor] = (), skip2: Sequence[Tensor] = (),
            skip1: Sequence[Tensor] = (), local: Sequence[Tensor] = ()) -> Tensor:
    """F_glo (B, D, H/8, W/8) -> predicted frame (B, C, H, W) in [-1, 1].

    The relatives' skips at 1/4, 1/2 and full resolution go before what comes from below, F'_loc (B, width, H, W) after.
    """
    x = bottom
    for level, block, skip in ((4, "moduleConv", ()), (3, "moduleDeconv3", skip4), (2, "moduleDeconv2", skip2)):
        x = two_convs(state, f"decoder.{block}", torch.cat([*skip, x], dim=1), training)
        x = up_br(state, f"decoder.moduleUpsample{level}", 0, x, training)
    return head(state, torch.cat([*skip1, x, *local], dim=1), training)


def head(state: State, x: Tensor, training: bool) -> Tensor:
    """Features at full resolution -> frame (B, C, H, W) in [-1, 1]."""
    return torch.tanh(conv(state, "decoder.moduleDeconv1.6", two_convs(state, "decoder.moduleDeconv1", x, training)))


# ------------------------------------------------------------------------------------------------- the relatives
# Each: weights, items of each memory, clip -> prediction, queries of each memory.

def lgn_net(state: State, items: list[Tensor], clip: Tensor, training: bool, recur: Callable = stp_net,
            detach: bool = True) -> tuple[Tensor, list[Tensor]]:
    """The published network. Its read is cut off from the gradient; without items the decoder gets the queries.

    LGN-ST has `conv_lstms`. With `detach=False` the read passes the gradient on (eq. 2-3).
    """
    queries = unit(e_glo(state, clip, training)[-1])
    bottom = memory_read(items[0], queries) if items else queries
    bottom = bottom.detach() if items and detach else bottom
    local = [local_branch(state, clip, training, recur)]
    return decoder(state, bottom, training, local=local), [queries for _ in items]


def loc_net(state: State, items: list[Tensor], clip: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
    """The local branch of LGN-ST and the head."""
    return head(state, local_branch(state, clip, training, conv_lstms), training), []


def mnad_recon(state: State, items: list[Tensor], clip: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
    """E_glo and the decoder of cat(q, F_glo), without items of q alone. Glo-Net is the same, only narrower."""
    queries = unit(e_glo(state, clip, training)[-1])
    both = torch.cat([queries, *(memory_read(p, queries).detach() for p in items)], dim=1)
    return decoder(state, both, training), [queries for _ in items]


def mnad_pred(state: State, items: list[Tensor], clip: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
    """The same with skips, a U-Net."""
    x1, x2, x3, features = e_glo(state, clip, training)
    queries = unit(features)
    both = torch.cat([queries, *(memory_read(p, queries).detach() for p in items)], dim=1)
    return decoder(state, both, training, [x3], [x2], [x1]), [queries for _ in items]


def msn_net(state: State, items: list[Tensor], clip: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
    """Memories at 1/2, 1/4 and 1/8 resolution; what they rewrote is skips and bottleneck. Reads are differentiable."""
    queries = [unit(features) for features in e_glo(state, clip, training)[1:]]
    skip2, skip4, bottom = (memory_read(p, q) for p, q in zip(items, queries, strict=True))
    return decoder(state, bottom, training, [skip4], [skip2]), queries


# --------------------------------------------------------------------------------------------- memory and losses

def query_rows(queries: Tensor) -> Tensor:
    """(B, D, h, w) -> (N, D) in the order b, row, column."""
    B, _, h, w = queries.shape
    return torch.stack([queries[b, :, y, x] for b in range(B) for y in range(h) for x in range(w)])


def ranking(items: Tensor, query: Tensor) -> list[int]:
    """Items by falling cosine with one query (D,); of equal ones the first comes first."""
    similarity = (items @ query).tolist()
    return sorted(range(len(items)), key=lambda i: -similarity[i])


def unit(features: Tensor) -> Tensor:
    """(B, D, h, w) -> each pixel's features divided by their length (by 1e-12 where that is smaller)."""
    return features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)


def memory_read(items: Tensor, queries: Tensor) -> Tensor:
    """items (M, D), queries (B, D, h, w) -> sum_i w_i p_i for each, w the softmax over items of p_i . q (eq. 2-3)."""
    B, D, h, w = queries.shape
    exps = [torch.exp(items @ query) for query in query_rows(queries)]
    return torch.stack([e / e.sum() @ items for e in exps]).reshape(B, h, w, D).movedim(-1, 1)


def memory_update(items: Tensor, queries: Tensor, update_max: str = "all") -> Tensor:
    """p_i + sum over the queries nearest to i of v_ki q_k, back to unit length (eq. 4-6). Unchosen items stay.

    v_ki is a softmax over the queries k, divided by its largest value: that of "all" queries (authors' code) or of the
    item's "own" (paper).
    """
    nearest = [ranking(items, query)[0] for query in queries]
    updated = items.clone()
    for i, item in enumerate(items):
        own = [k for k in range(len(queries)) if nearest[k] == i]
        if own:
            v = torch.softmax(queries @ item, dim=0)
            largest = v.max() if update_max == "all" else v[own].max()
            moved = item + sum(v[k] / largest * queries[k] for k in own)
            updated[i] = moved / moved.norm()
    return updated


def memory_revival(before: Tensor, moved: Tensor, queries: Tensor, idle: list[int], patience: int) \
        -> tuple[Tensor, list[int]]:
    """Items that were nobody's nearest `patience` times running become the queries farthest from all items. Ours.

    `before` are the items whose nearest queries count, `moved` the same after their update, `idle` how often each was
    left out so far. Returns items and idle.
    """
    nearest = {ranking(before, query)[0] for query in queries}
    idle = [0 if i in nearest else count + 1 for i, count in enumerate(idle)]
    far = sorted(queries, key=lambda query: (before @ query).max().item())
    dead = [i for i, count in enumerate(idle) if count >= patience]
    items = moved.clone()
    for i, query in zip(dead, far):
        items[i] = query
    return items, [0 if i in dead else count for i, count in enumerate(idle)]


def compactness(items: Tensor, queries: Tensor) -> Tensor:
    """Mean over all N*D entries of (q - p_nearest)^2 (eq. 10). At test time, for one frame, this is D (eq. 14)."""
    total = sum(((query - items[ranking(items, query)[0]]) ** 2).sum() for query in queries)
    return total / queries.numel()


def separateness(items: Tensor, queries: Tensor, margin: float = 1.0) -> Tensor:
    """Mean over queries of max(0, |q - p_1st + eps| - |q - p_2nd + eps| + margin), eps 1e-6 on every entry (eq. 11)."""
    total = 0.0
    for query in queries:
        first, second = ranking(items, query)[:2]
        near = ((query - items[first] + 1e-6) ** 2).sum().sqrt()
        far = ((query - items[second] + 1e-6) ** 2).sum().sqrt()
        total = total + torch.clamp(near - far + margin, min=0)
    return total / len(queries)


def losses_of_family(items: list[Tensor], prediction: Tensor, queries: list[Tensor], target: Tensor, lambda_c: float,
                     lambda_s: float, margin: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """total, prediction (mean squared error on [-1, 1]), compactness, separateness (eq. 9-12).

    The memory losses are means over the memories; 0 without any.
    """
    intensity = ((prediction - target) ** 2).mean()
    memories = [(p, query_rows(q)) for p, q in zip(items, queries, strict=True)]
    compact = sum(compactness(p, q) for p, q in memories) / max(len(memories), 1)
    separate = sum(separateness(p, q, margin) for p, q in memories) / max(len(memories), 1)
    return intensity + lambda_c * compact + lambda_s * separate, intensity, compact, separate


def authors_training_steps(state: State, items: Tensor, batches: list[Tensor], lr: float, lambda_c: float,
                           lambda_s: float) -> list[tuple[float, float, float, float]]:
    """One Adam step per clip batch (B, n+1, C, H, W) -> (total, prediction, compactness, separateness) of each.

    Forward, losses, Adam, then the items move by the forward's queries. `state` and `items` are changed in place.
    """
    parameters = [tensor.requires_grad_() for name, tensor in state.items() if name.endswith((".weight", ".bias"))]
    optimizer, log = torch.optim.Adam(parameters, lr=lr), []
    for batch in batches:
        prediction, (queries,) = lgn_net(state, [items], batch[:, :-1], True)
        values = losses_of_family([items], prediction, [queries], batch[:, -1], lambda_c, lambda_s)
        optimizer.zero_grad()
        values[0].backward()
        optimizer.step()
        items.copy_(memory_update(items, query_rows(queries.detach())))
        log.append(tuple(value.item() for value in values))
    return log


# ----------------------------------------------------------------------------------------------------- scoring

def squared_error(prediction: Tensor, frame: Tensor) -> Tensor:
    """e per pixel and channel, images brought from [-1, 1] to [0, 1]."""
    return ((prediction.double() - frame.double()) / 2) ** 2


def psnr(prediction: Tensor, frame: Tensor) -> float:
    """10 log10(1 / mean e), in dB (eq. 13 with peak 1)."""
    return 10 * math.log10(1 / squared_error(prediction, frame).mean().item())


def regular_score(prediction: Tensor, frame: Tensor) -> float:
    """R = sum((1 - exp(-e)) e) / sum(1 - exp(-e)) over pixels and channels (eq. 7-8)."""
    e = squared_error(prediction, frame)
    w = 1 - torch.exp(-e)
    return ((w * e).sum() / w.sum()).item()


def official_name(ours: str) -> str:
    """The name above of an entry of our state_dict, to hand the same weights to both implementations."""
    prefixes = {
        "local_branch.encoder.": "pred.encoder.", "local_branch.cells.": "pred.convlstm_list.",
        "local_branch.deconv.": "st_decoder.", "prototype_encoder.block": "encoder.moduleConv",
        "decoder.block4.": "decoder.moduleConv.", "decoder.block": "decoder.moduleDeconv",
        "decoder.up": "decoder.moduleUpsample", "decoder.head.": "decoder.moduleDeconv1.",
        "encoder.block": "encoder.moduleConv", "head.": "decoder.moduleDeconv1.",               # MSN-Net, Loc-Net
    }
    ours = ours.replace("conv_1x1.", "conv_last.")
    for gate in ("x", "h", "m", "o"):
        ours = ours.replace(f".conv_{gate}.", f".conv_{gate}.0.")
    prefix = next(prefix for prefix in prefixes if ours.startswith(prefix))
    return prefixes[prefix] + ours.removeprefix(prefix)
