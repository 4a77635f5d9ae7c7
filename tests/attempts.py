"""What learners hand in: right in other ways, wrong in known ways written otherwise, and wrong in ways nobody foresaw.

Each is put behind the solution, whose names it takes over. RIGHT: source. KNOWN: (hint, source). OTHER: (a part of what
is said, source); no known mistake explains it. The quick test run has the first two KNOWN of each exercise.
"""

RIGHT = {
    "attention": [
        """
import torch, math
def attend(query, key, value, mask=None):
    s = torch.einsum("bhtd,bhsd->bhts", query, key) * query.shape[3] ** -0.5
    if mask is not None:
        s = s + torch.zeros(mask.shape).masked_fill(mask == False, -math.inf)
    s = s - s.max(-1, keepdim=True).values
    w = s.exp()
    return torch.einsum("bhts,bhsd->bhtd", w / w.sum(-1, keepdim=True), value)
""",
        """
import torch
def attend(query, key, value, mask=None):
    B, H, T, D = query.shape
    out = torch.zeros(B, H, T, D, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                scores = (key[b, h].double() @ query[b, h, t].double()) / D ** 0.5
                if mask is not None:
                    scores[~mask[t]] = -float("inf")
                out[b, h, t] = torch.softmax(scores, 0) @ value[b, h].double()
    return out
""",
        """
import torch.nn.functional as F
def attend(query, key, value, mask=None):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
""",
        """
import torch.nn.functional as F
attend = F.scaled_dot_product_attention
""",
    ],
    "mask": [
        """
import torch
def by_hand():
    return torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
def causal_mask(new, seen=0):
    return torch.arange(seen + new)[None, :] <= torch.arange(seen, seen + new)[:, None]
def causal_weights(scores):
    T, S = scores.shape[-2:]
    e = (scores - scores.amax(-1, keepdim=True)).exp() * causal_mask(T, S - T)
    return e / e.sum(-1, keepdim=True)
"""
    ],
    "bigram": [
        """
import torch
def pairs(ids):
    x = torch.stack([ids[i] for i in range(len(ids) - 1)])
    return x, ids[1:].clone()
def loss(model, ids):
    x, y = pairs(ids)
    return -model(x).log_softmax(-1)[torch.arange(len(y)), y].mean()
def train_bigram(ids, vocab_size, steps=40):
    n = int(0.9 * len(ids))
    model = Bigram(vocab_size, 32)
    opt = torch.optim.AdamW(model.parameters(), lr=0.03)
    for step in range(steps):
        l = loss(model, ids[:n])
        l.backward()
        opt.step()
        opt.zero_grad()
    with torch.no_grad():
        return model, loss(model, ids[n:])
"""
    ],
    "sampler": [
        """
import torch
def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
    p = torch.zeros_like(logits)
    if temperature == 0:
        p[logits.argmax()] = 1
        return p
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k:
        order = order[:top_k]
    q = torch.softmax(logits[order] / temperature, 0)
    kept, total = [], 0.0
    for i, x in zip(order, q):
        kept.append(i)
        total += x.item()
        if total >= top_p:
            break
    for i, x in zip(kept, q):
        p[i] = x / total
    return p
def sample(logits, generator, temperature=1.0, top_k=0, top_p=1.0):
    c = probabilities(logits, temperature, top_k, top_p).cumsum(0)
    return torch.searchsorted(c, torch.rand(1, generator=generator)).item()
"""
    ],
    "characters": [
        """
class Characters:
    def __init__(self, text):
        self.chars = "".join(sorted(set(text)))
    @property
    def vocab_size(self):
        return len(self.chars)
    def encode(self, text):
        out = []
        for c in text:
            i = self.chars.find(c)
            if i < 0:
                raise ValueError("unknown character: " + c)
            out.append(i)
        return out
    def decode(self, ids):
        text = ""
        for i in ids:
            text += self.chars[i]
        return text
"""
    ],
    "bpe": [
        """
def count_pairs(words):
    counts = {}
    for word, n in words.items():
        for a, b in zip(word, word[1:]):
            counts[a, b] = counts.get((a, b), 0) + n
    return counts
def join(ids, pair, new_id):
    ids, out = list(ids), []
    while ids:
        if tuple(ids[:2]) == pair:
            out.append(new_id); del ids[:2]
        else:
            out.append(ids.pop(0))
    return out
def train_merges(words, count):
    words = [(w, n) for w, n in words.items()]
    merges = []
    for i in range(count):
        counts = {}
        for word, n in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + n
        if not counts or max(counts.values()) < 2:
            break
        top = max(counts.values())
        best = sorted(p for p in counts if counts[p] == top)[0]
        merges.append(best)
        words = [(tuple(join(w, best, 256 + i)), n) for w, n in words]
    return merges
def encode(word, merges):
    ids = list(word.encode("utf-8"))
    for i, pair in enumerate(merges):
        ids = join(ids, pair, 256 + i)
    return ids
"""
    ],
    "batches": [
        """
import torch
def window(ids, start, block_size):
    return ids[start:start + block_size], ids[start + 1:start + 1 + block_size]
def epoch_order(windows, seed, epoch):
    g = torch.Generator().manual_seed(hash((seed, epoch)) % 2**31)
    return torch.randperm(windows, generator=g).tolist()
def batch_at(ids, step, *, block_size, batch_size, seed):
    n = (len(ids) - 1) // block_size
    rows = []
    for k in range(batch_size):
        place = step * batch_size + k
        rows.append(epoch_order(n, seed, place // n)[place % n] * block_size)
    index = torch.tensor(rows)[:, None] + torch.arange(block_size)
    return ids[index], ids[index + 1]
""",
        """
import torch
def epoch_order(windows, seed, epoch):
    return torch.randperm(windows, generator=torch.Generator().manual_seed(seed * 1000003 + epoch))
""",
    ],
    "heads": [
        """
import torch
import torch.nn as nn
import torch.nn.functional as F
class Attention(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.h = n_head
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(n_embd, n_embd, bias=False))
    def forward(self, x):
        heads = []
        d = x.shape[-1] // self.h
        q, k, v = self.query(x), self.key(x), self.value(x)
        for i in range(self.h):
            s = slice(i * d, (i + 1) * d)
            heads.append(F.scaled_dot_product_attention(q[..., s], k[..., s], v[..., s], is_causal=True))
        return self.output(torch.cat(heads, -1))
"""
    ],
    "model": [
        """
class GPT(nn.Module):
    def __init__(self, vocab_size, block_size, n_layer, n_head, n_embd):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[Block(n_embd, n_head) for _ in range(n_layer)])
        self.norm = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        self.embedding.weight = self.head.weight
        self.apply(self._init)
    def _init(self, m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            m.weight.data.normal_(0, 0.02)
    def forward(self, ids):
        B, T = ids.shape
        x = self.embedding(ids)
        x = x + self.position_embedding.weight[:T]
        return self.norm(self.blocks(x)) @ self.embedding.weight.T
""",
        """
class GPT(GPT):
    def __init__(self, vocab_size, block_size, n_layer, n_head, n_embd):
        super().__init__(vocab_size, block_size, n_layer, n_head, n_embd)
        for name, p in self.named_parameters():
            if name.endswith(("output.weight", "down.weight")):
                nn.init.normal_(p, 0.0, 0.02 / math.sqrt(2 * n_layer))
import math
""",
    ],
    "training": [
        """
def make_optimizer(model, lr, weight_decay):
    groups = [{"params": [p], "weight_decay": weight_decay if p.ndim > 1 else 0} for p in model.parameters()]
    return torch.optim.AdamW(groups, lr, (0.9, 0.95))
def learning_rate(update, *, lr, min_lr, warmup, steps):
    if update <= warmup:
        return lr * (update / warmup)
    t = (update - warmup) / (steps - warmup)
    return min_lr + 0.5 * (1.0 + math.cos(t * math.pi)) * (lr - min_lr)
def update(model, optimizer, inputs, targets):
    logits = model(inputs)
    loss = F.cross_entropy(logits.transpose(1, 2), targets)
    loss.backward()
    grads = [p.grad for p in model.parameters()]
    norm = torch.sqrt(sum((g ** 2).sum() for g in grads))
    if norm > 1:
        for g in grads:
            g.mul_(1 / norm)
    optimizer.step()
    for p in model.parameters():
        p.grad = None
    return loss.detach(), norm
"""
    ],
    "sampling": [
        """
def generate(model, ids, count, *, block_size, temperature=1.0, stop=None, generator=None):
    was = model.training
    model.eval()
    new = []
    with torch.inference_mode():
        while len(new) < count:
            window = (list(ids) + new)[-block_size:]
            logits = model(torch.tensor([window]))[0, -1, :]
            if temperature == 0:
                token = logits.argmax().item()
            else:
                c = torch.softmax(logits / temperature, -1).cumsum(0)
                token = int((torch.rand((), generator=generator) > c).sum())
            if token == stop:
                break
            new.append(token)
    if was:
        model.train()
    return new
""",
        """
def stream(model, ids, block_size, temperature, generator):
    seen = list(ids)
    while True:
        row = model(torch.tensor(seen[-block_size:])[None])[0, -1]
        if temperature > 0:
            row = row / temperature - (-torch.rand(row.shape, generator=generator).log()).log()
        seen.append(row.argmax().item())
        yield seen[-1]
@torch.inference_mode()
def generate(model, ids, count, *, block_size, temperature=1.0, stop=None, generator=None):
    was, out = model.training, []
    model.eval()
    for new in stream(model, ids, block_size, temperature, generator):
        if new == stop or len(out) == count:
            break
        out.append(new)
    model.train(was)
    return tuple(out)
""",
    ],
    "evaluation": [
        """
def windows(ids, block_size):
    inputs, targets = ids[:-1], ids[1:]
    return list(zip(inputs.split(block_size), targets.split(block_size)))
def total_nats(model, ids, block_size):
    was = model.training
    model.eval()
    total = 0
    with torch.inference_mode():
        for x, y in windows(ids, block_size):
            total += -model(x.unsqueeze(0)).log_softmax(-1)[0].gather(1, y[:, None]).sum()
    model.train(was)
    return total
def bits_per_character(model, ids, block_size, characters):
    return total_nats(model, ids, block_size) * math.log2(math.e) / characters
"""
    ],
    "rope": [
        """
def frequencies(head_dim, theta=10000.0):
    return torch.tensor([theta ** (-2 * i / head_dim) for i in range(head_dim // 2)])
def rotate(x, positions, theta=10000.0):
    half = x.shape[-1] // 2
    angle = positions[:, None] * frequencies(x.shape[-1], theta)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag), -1)
""",
        """
def rotate(x, positions, theta=10000.0):
    angle = torch.cat([positions[:, None] * frequencies(x.shape[-1], theta)] * 2, -1)
    a, b = x.chunk(2, -1)
    return x * angle.cos() + torch.cat((-b, a), -1) * angle.sin()
""",
    ],
    "rmsnorm": [
        """
import torch.nn.functional as F
def rms_norm(x, gain, eps=1e-6):
    return F.rms_norm(x.float(), x.shape[-1:], gain.float(), eps).type_as(x)
def layer_norm(x, gain, eps=1e-6):
    y = x.float()
    y = (y - y.mean(-1, keepdim=True)) * torch.rsqrt(y.var(-1, keepdim=True, correction=0) + eps)
    return (y * gain).to(x.dtype)
import torch
"""
    ],
    "mlp": [
        """
import math
def relu2(x, up, down):
    h = (x @ up.T).clamp(min=0)
    return (h * h) @ down.T
def swiglu(x, gate, up, down):
    g = x @ gate.T
    return ((g * g.sigmoid()) * (x @ up.T)) @ down.T
def hidden_channels(n_embd, multiple):
    return math.ceil(8 * n_embd / 3 / multiple) * multiple
"""
    ],
    "grouped": [
        """
import torch.nn.functional as F
def attend(query, key, value):
    B, H, T, D = query.shape
    K, S = key.shape[1:3]
    q = query.view(B, K, H // K, T, D)
    s = torch.einsum("bkgtd,bksd->bkgts", q, key) / D ** 0.5
    s = s.masked_fill(torch.ones(T, S).triu(S - T + 1).bool(), -1e30)
    return torch.einsum("bkgts,bksd->bkgtd", s.softmax(-1), value).reshape(B, H, T, D)
"""
    ],
    "cache": [
        """
class Cache:
    def __init__(self):
        self.pieces = []
    @property
    def length(self):
        return sum(k.shape[2] for k, _ in self.pieces)
    def write(self, key, value):
        self.pieces.append((key, value))
        return tuple(torch.cat(x, 2) for x in zip(*self.pieces))
""",
        """
class Cache:
    def __init__(self):
        self.length, self.room = 0, None
    def write(self, key, value):
        if self.room is None:
            B, H, _, D = key.shape
            self.room = torch.zeros(2, B, H, 64, D)
        end = self.length + key.size(2)
        self.room[0, :, :, self.length:end] = key
        self.room[1, :, :, self.length:end] = value
        self.length = end
        return self.room[0, :, :, :end], self.room[1, :, :, :end]
""",
    ],
    "muon": [
        """
def orthogonal(matrix, iterations=5):
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix / (matrix.square().sum().sqrt() + 1e-12)
    for _ in range(iterations):
        g = x.T @ x if tall else x @ x.T
        p = -4.7750 * g + 2.0315 * g @ g
        x = 3.4445 * x + (x @ p if tall else p @ x)
    return x
def muon_step(weight, gradient, mean, lr, momentum=0.95):
    mean = mean.lerp(gradient, 1 - momentum)
    step = orthogonal(gradient.lerp(mean, momentum)) * 0.2 * max(weight.size(0), weight.size(1)) ** 0.5
    return weight.sub(step, alpha=lr), mean
"""
    ],
    "lora": [
        """
import copy
class LoraLinear(nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base = base
        for p in base.parameters():
            p.requires_grad = False
        self.A = nn.Parameter(torch.empty(rank, base.in_features).normal_(std=base.in_features ** -0.5))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.scale = alpha / rank
    def forward(self, x):
        return self.base(x) + (x @ self.A.T @ self.B.T) * self.scale
    def merged(self):
        new = copy.deepcopy(self.base)
        with torch.no_grad():
            new.weight.add_(self.B @ self.A, alpha=self.scale)
        return new
"""
    ],
    "sft": [
        """
def written(turns):
    ids, said = [], []
    for role, words in turns:
        piece = [1, role] + list(words) + [2]
        ids.extend(piece)
        said.extend(role == 4 and i >= 2 for i in range(len(piece)))
    return ids, said
def example(turns):
    ids, said = written(turns)
    targets = [i if s else -100 for i, s in zip(ids, said)][1:]
    return torch.tensor(ids[:-1]), torch.tensor(targets)
def loss(logits, targets):
    counted = targets != -100
    return -logits[counted].log_softmax(-1)[torch.arange(counted.sum()), targets[counted]].mean()
"""
    ],
    "accumulation": [
        """
def accumulate(model, batches):
    for p in model.parameters():
        p.grad = None
    n = sum((t != -100).sum() for _, t in batches)
    total = 0
    for x, t in batches:
        keep = t != -100
        loss = -(model(x).log_softmax(-1).gather(-1, t.clamp(min=0)[..., None])[..., 0] * keep).sum() / n
        loss.backward()
        total += loss.detach()
    return total
"""
    ],
    "norms": [
        """
def stack(x, norm, parts, kind):
    out = [x]
    for part in parts:
        x = x + part(norm(x)) if kind == "pre" else norm(x + part(x))
        out += [x]
    return out if kind == "post" else out[:-1] + [norm(out[-1])]
def gradient_sizes(x, norm, parts, kind, factors):
    x = x.detach().clone().requires_grad_()
    stream = stack(x, norm, parts, kind)
    for s in stream[1:]:
        s.retain_grad()
    stream[-1].backward(factors)
    return [s.grad.pow(2).sum().sqrt() for s in stream[:-1]]
"""
    ],
    "processes": [
        """
def update(model, optimizer, inputs, targets):
    inputs, targets = own_rows(inputs), own_rows(targets)
    n = (targets != -100).sum()
    dist.all_reduce(n)
    losses = F.cross_entropy(model(inputs).transpose(1, 2), targets, ignore_index=-100, reduction="none")
    optimizer.zero_grad()
    (losses.sum() * dist.get_world_size() / n).backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()
    optimizer.step()
    loss = losses.detach().sum() / n
    dist.all_reduce(loss)
    return loss.item()
"""
    ],
}

KNOWN = {
    "attention": [
        (
            "softmax dimension",
            """
import torch
def attend(query, key, value, mask=None):
    s = torch.einsum("bhtd,bhsd->bhts", query, key) * query.shape[3] ** -0.5
    if mask is not None:
        s[:, :, ~mask] = -1e30
    w = torch.exp(s - s.max(2, keepdim=True)[0])
    return torch.einsum("bhts,bhsd->bhtd", w / w.sum(2, keepdim=True), value)
""",
        ),
        (
            "mask ignored",
            """
import torch.nn.functional as F
def attend(query, key, value, mask=None):
    return F.scaled_dot_product_attention(query, key, value)
""",
        ),
        (
            "scale, softmax dimension",
            """
def attend(query, key, value, mask=None):
    return (query @ key.mT).softmax(-2) @ value
""",
        ),
        (
            "mask with a number too small",
            """
def attend(q, k, v, mask=None):
    a = (q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5
    if mask is not None:
        a = a.masked_fill(mask == 0, -100)
    return a.softmax(-1) @ v
""",
        ),
        (
            "not transposed",
            """
import torch
def attend(query, key, value, mask=None):
    return torch.softmax(torch.matmul(query, key) / query.size(-1) ** 0.5, -1) @ value
""",
        ),
    ],
    "mask": [
        (
            "one ahead",
            """
import torch
def causal_mask(new, seen=0):
    m = torch.zeros(new, seen + new, dtype=torch.bool)
    for i in range(new):
        m[i, : seen + i + 2] = True
    return m
""",
        ),
        (
            "not bool",
            """
def causal_mask(new, seen=0):
    return torch.tril(torch.ones(new, seen + new), diagonal=seen)
def causal_weights(scores):
    T, S = scores.shape[-2:]
    return scores.masked_fill(causal_mask(T, S - T) == 0, float("-inf")).softmax(-1)
""",
        ),
        (
            "hidden by a small number",
            """
def causal_weights(scores):
    T, S = scores.shape[-2:]
    return scores.where(causal_mask(T, S - T), -1e4).softmax(-1)
""",
        ),
    ],
    "bigram": [
        (
            "held out in name only",
            """
def train_bigram(ids, vocab_size, steps=40):
    model = Bigram(vocab_size, 32)
    opt = torch.optim.AdamW(model.parameters(), lr=0.03)
    for _ in range(steps):
        opt.zero_grad(); loss(model, ids).backward(); opt.step()
    return model, float(loss(model, ids[-len(ids) // 10 :]))
""",
        ),
        (
            "gradients pile up",
            """
def train_bigram(ids, vocab_size, steps=40):
    torch.manual_seed(1337)
    n = int(0.9 * len(ids))
    model = Bigram(vocab_size, 32)
    opt = torch.optim.AdamW(model.parameters(), lr=0.03)
    for _ in range(steps):
        loss(model, ids[:n]).backward()
        opt.step()
    return model, loss(model, ids[n:]).item()
""",
        ),
    ],
    "sampler": [
        (
            "crossing token dropped",
            """
def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).float()
    logits = logits / temperature
    if top_k:
        logits = torch.where(logits < logits.topk(min(top_k, len(logits)))[0][-1], -torch.inf, logits)
    p = logits.softmax(-1)
    if top_p >= 1:
        return p
    s, i = torch.sort(p, descending=True)
    s[torch.cumsum(s, 0) > top_p] = 0
    return torch.zeros_like(p).scatter(0, i, s / s.sum())
""",
        ),
        (
            "settings lost",
            """
def sample(logits, generator, temperature=1.0, top_k=0, top_p=1.0):
    return torch.multinomial(probabilities(logits, 1.0, top_k), 1, generator=generator).item()
""",
        ),
        (
            "settings lost",
            """
def sample(logits, generator, temperature=1.0, top_k=0, top_p=1.0):
    return torch.multinomial(probabilities(logits, temperature), 1, generator=generator).item()
""",
        ),
    ],
    "characters": [
        (
            "order of appearance",
            """
class Characters(Characters):
    def __init__(self, text):
        self.alphabet = []
        for c in text:
            if c not in self.alphabet:
                self.alphabet += [c]
        self.vocab_size = len(self.alphabet)
        self.ids = dict(zip(self.alphabet, range(self.vocab_size)))
""",
        ),
        (
            "nameless",
            """
class Characters(Characters):
    def encode(self, text):
        if not set(text) <= set(self.alphabet):
            raise ValueError("text has an unexpected character")
        return [self.ids[c] for c in text]
""",
        ),
        (
            "size is a method",
            """
class Characters:
    def __init__(self, text):
        self.chars = sorted(set(text))
    def vocab_size(self):
        return len(self.chars)
""",
        ),
    ],
    "bpe": [
        (
            "left to right",
            """
def encode(word, merges):
    ids = list(word.encode())
    i = 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) in merges:
            ids[i : i + 2] = [256 + merges.index((ids[i], ids[i + 1]))]
            i = 0
        else:
            i += 1
    return ids
""",
        ),
        (
            "overlapping",
            """
def join(ids, pair, new_id):
    return tuple(new_id if ids[i:i+2] == pair else ids[i] for i in range(len(ids)))
""",
        ),
        (
            "bytes left out",
            """
def decode(ids, merges):
    vocab = {i: bytes([i]) for i in range(256)}
    for i, (a, b) in enumerate(merges):
        vocab[256 + i] = vocab[a] + vocab[b]
    return b"".join(vocab[i] for i in ids).decode("utf-8", errors="ignore")
""",
        ),
    ],
    "batches": [
        (
            "no shift",
            """
def window(ids, start, block_size):
    return ids[start:start + block_size], ids[start:start + block_size]
""",
        ),
        (
            "one window too many",
            """
import math
def count_windows(length, block_size):
    return math.floor(length / block_size)
""",
        ),
        (
            "seed ignored",
            """
def batch_at(ids, step, *, block_size, batch_size, seed):
    n = count_windows(len(ids), block_size)
    places = range(step * batch_size, (step + 1) * batch_size)
    starts = [epoch_order(n, 42, place // n)[place % n] * block_size for place in places]
    return tuple(torch.stack(x) for x in zip(*[window(ids, s, block_size) for s in starts]))
""",
        ),
        (
            "one number for two pairs",
            """
def epoch_order(windows, seed, epoch):
    rng = random.Random(seed * epoch)
    return rng.sample(range(windows), windows)
""",
        ),
        (
            "one number for two pairs",
            """
def epoch_order(windows, seed, epoch):
    rng = random.Random(seed * (epoch + 1))
    return rng.sample(range(windows), windows)
""",
        ),
    ],
    "heads": [
        (
            "cut without transposing",
            """
class Attention(Attention):
    def forward(self, x):
        import torch.nn.functional as F
        B, T, C = x.shape
        q, k, v = (f(x).reshape(B, self.n_head, T, -1) for f in (self.query, self.key, self.value))
        return self.output(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
""",
        ),
        (
            "hidden too late",
            """
class Attention(Attention):
    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (f(x).view(B, T, self.n_head, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        w = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
        w = w.masked_fill(torch.triu(torch.ones(T, T), 1).bool(), 0)
        return self.output((w @ v).transpose(1, 2).flatten(2))
""",
        ),
    ],
    "model": [
        (
            "post-norm",
            """
class Block(Block):
    def forward(self, x):
        y = self.attention_norm(self.attention(x) + x)
        return self.mlp_norm(self.mlp(y) + y)
""",
        ),
        (
            "no last norm",
            """
class GPT(GPT):
    def forward(self, ids):
        h = self.embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        for b in self.blocks:
            h = b(h)
        return F.linear(h, self.head.weight)
""",
        ),
        (
            "GELU of GPT-2",
            """
class MLP(MLP):
    def forward(self, x):
        h = self.up(x)
        return self.down(0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3))))
""",
        ),
        (
            "large first weights",
            """
class GPT(GPT):
    def __init__(self, vocab_size, block_size, n_layer, n_head, n_embd):
        nn.Module.__init__(self)
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.position_embedding = nn.Embedding(block_size, n_embd)
        self.blocks = nn.ModuleList([Block(n_embd, n_head) for _ in range(n_layer)])
        self.norm = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        self.embedding.weight = self.head.weight
""",
        ),
        (
            "tied by data",
            """
class GPT(GPT):
    def __init__(self, *sizes, **named):
        super().__init__(*sizes, **named)
        self.head = nn.Linear(*self.head.weight.T.shape, bias=False)
        self.head.weight.data = self.embedding.weight.data
""",
        ),
    ],
    "training": [
        (
            "decay on norms and biases",
            """
def make_optimizer(model, lr, weight_decay):
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay)
""",
        ),
        (
            "not clipped",
            """
def update(model, optimizer, inputs, targets):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    optimizer.step()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return loss.item(), norm.item()
""",
        ),
        (
            "warm-up from zero",
            """
def learning_rate(update, *, lr, min_lr, warmup, steps):
    i = update - 1
    if i < warmup:
        return lr * i / warmup
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * (i - warmup) / (steps - warmup)))
""",
        ),
        (
            "rate of one group",
            """
def train(model, optimizer, batches, *, lr, min_lr, warmup, steps):
    losses = []
    for i, (x, y) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(i + 1, lr=lr, min_lr=min_lr, warmup=warmup, steps=steps)
        losses.append(update(model, optimizer, x, y)[0])
    return losses
""",
        ),
    ],
    "sampling": [
        (
            "cut at the wrong end",
            """
@torch.no_grad()
def generate(model, ids, count, *, block_size, temperature=1.0, stop=None, generator=None):
    was, all_ids = model.training, torch.tensor([ids])
    model.eval()
    for _ in range(count):
        logits = model(all_ids[:, :block_size])[:, -1]
        p = torch.softmax(logits / max(temperature, 1e-6), -1)
        new = torch.multinomial(p, 1, generator=generator)
        if stop is not None and new.item() == stop:
            break
        all_ids = torch.cat((all_ids, new), 1)
    model.train(was)
    return all_ids[0, len(ids):].tolist()
""",
        ),
        (
            "stop 0 ignored",
            """
_g = generate
def generate(model, ids, count, *, block_size, temperature=1.0, stop=None, generator=None):
    return _g(model, ids, count, block_size=block_size, temperature=temperature, stop=stop or None, generator=generator)
""",
        ),
    ],
    "evaluation": [
        (
            "borders lost",
            """
def windows(ids, block_size):
    return [(w[:-1], w[1:]) for w in ids.split(block_size) if len(w) > 1]
""",
        ),
        (
            "nats",
            """
def bits_per_character(model, ids, block_size, characters):
    return total_nats(model, ids, block_size) / characters
""",
        ),
        (
            "no batch",
            """
@torch.no_grad()
def total_nats(model, ids, block_size):
    was, total = model.training, 0.0
    model.eval()
    for x, y in windows(ids, block_size):
        total += F.cross_entropy(model(x), y, reduction="sum").item()
    model.train(was)
    return total
""",
        ),
    ],
    "rope": [
        (
            "neighbours",
            """
def rotate(x, positions, theta=10000.0):
    angle = positions[:, None] * frequencies(x.shape[-1], theta)
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(z).flatten(-2)
""",
        ),
        (
            "halves with the angles of neighbours",
            """
def rotate(x, positions, theta=10000.0):
    angles = (positions[:, None] * frequencies(x.shape[-1], theta)).repeat_interleave(2, dim=-1)
    x1, x2 = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat((-x2, x1), dim=-1) * angles.sin()
""",
        ),
    ],
    "rmsnorm": [
        (
            "mean taken off",
            """
import torch.nn.functional as F
def rms_norm(x, gain, eps=1e-6):
    return F.layer_norm(x.float(), x.shape[-1:], gain.float(), None, eps).to(x.dtype)
""",
        ),
        (
            "no eps",
            """
def layer_norm(x, gain, eps=1e-6):
    y = x.float()
    y = (y - y.mean(-1, keepdim=True)) / y.std(-1, keepdim=True, unbiased=False)
    return (y * gain).to(x.dtype)
""",
        ),
    ],
    "mlp": [
        (
            "silu on the wrong half",
            """
def swiglu(x, gate, up, down):
    u = x @ up.T
    return (u * u.sigmoid() * (x @ gate.T)) @ down.T
""",
        ),
        (
            "rounded down",
            """
def hidden_channels(n_embd, multiple):
    hidden = int(2 * (4 * n_embd) / 3)
    return multiple * ((hidden + multiple - 1) // multiple)
""",
        ),
    ],
    "grouped": [
        (
            "in turns",
            """
import torch.nn.functional as F
def attend(query, key, value):
    H, K, T, S = query.shape[1], key.shape[1], query.shape[2], key.shape[2]
    index = [h % K for h in range(H)]
    mask = torch.ones(T, S).tril(S - T).bool()
    return F.scaled_dot_product_attention(query, key[:, index], value[:, index], mask)
""",
        ),
        (
            "hidden by a small number",
            """
def attend(query, key, value):
    group, T, S = query.size(1) // key.size(1), query.size(2), key.size(2)
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.mT / query.size(-1) ** 0.5
    scores[..., torch.ones(T, S).triu(S - T + 1).bool()] = -1000
    return scores.softmax(-1) @ value
""",
        ),
    ],
    "cache": [
        (
            "positions from zero",
            """
def forward(layer, ids, cache):
    x = layer.embedding(ids) + layer.position_embedding.weight[: ids.size(1)]
    seen = cache.length
    k, v = cache.write(layer.heads(layer.key(x)), layer.heads(layer.value(x)))
    out = F.scaled_dot_product_attention(layer.heads(layer.query(x)), k, v, visible(ids.size(1), seen))
    return layer.output(out.transpose(1, 2).flatten(2))
""",
        ),
        (
            "shared",
            """
class Cache:
    def __init__(self, ks=[], vs=[]):
        self.ks, self.vs, self.length = ks, vs, 0
    def write(self, key, value):
        self.ks.append(key)
        self.vs.append(value)
        self.length += key.shape[2]
        return torch.cat(self.ks, 2), torch.cat(self.vs, 2)
""",
        ),
    ],
    "muon": [
        (
            "not divided by its norm",
            """
def orthogonal(matrix, iterations=5):
    x = matrix
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x
""",
        ),
        (
            "no look ahead",
            """
def muon_step(weight, gradient, mean, lr, momentum=0.95):
    mean = mean * momentum + gradient * (1 - momentum)
    return weight - lr * 0.2 * max(weight.shape) ** 0.5 * orthogonal(mean), mean
""",
        ),
        (
            "bfloat16",
            """
def orthogonal(matrix, iterations=5):
    x = matrix.bfloat16()
    x = x.mT if matrix.size(0) > matrix.size(1) else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if matrix.size(0) > matrix.size(1) else x
""",
        ),
    ],
    "lora": [
        (
            "B random",
            """
class LoraLinear(LoraLinear):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        nn.init.kaiming_uniform_(self.B)
""",
        ),
        (
            "scale alpha",
            """
class LoraLinear(LoraLinear):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.scale = alpha
""",
        ),
        (
            "scale a whole number",
            """
class LoraLinear(LoraLinear):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.scale = alpha // rank
""",
        ),
    ],
    "sft": [
        (
            "masked by the input",
            """
def example(turns):
    ids, said = written(turns)
    targets = [b if s else -100 for b, s in zip(ids[1:], said)]
    return torch.tensor(ids[:-1]), torch.tensor(targets)
""",
        ),
        (
            "END not learnt",
            """
def written(turns):
    ids, said = [], []
    for role, words in turns:
        ids += [1, role] + words + [2]
        said += [0, 0] + [int(role == 4)] * len(words) + [0]
    return ids, said
""",
        ),
    ],
    "accumulation": [
        (
            "mean of means",
            """
def accumulate(model, batches):
    model.zero_grad()
    total = 0
    for x, t in batches:
        loss = F.cross_entropy(model(x).transpose(1, 2), t) / len(batches)
        loss.backward()
        total += loss.item()
    return total
""",
        )
    ],
    "norms": [
        (
            "no last norm",
            """
def stack(x, norm, parts, kind):
    out = [x]
    for part in parts:
        out.append(out[-1] + part(norm(out[-1])) if kind == "pre" else norm(out[-1] + part(out[-1])))
    return out
""",
        ),
        (
            "last norm appended",
            """
def stack(x, norm, parts, kind):
    out = [x]
    for part in parts:
        out.append(pre_norm(out[-1], norm, part) if kind == "pre" else post_norm(out[-1], norm, part))
    return out + [norm(out[-1])] if kind == "pre" else out
""",
        ),
    ],
    "processes": [
        (
            "averaged once too often",
            """
def update(model, optimizer, inputs, targets):
    n = (targets != -100).sum()
    inputs, targets = own_rows(inputs), own_rows(targets)
    losses = F.cross_entropy(model(inputs).transpose(1, 2), targets, ignore_index=-100, reduction="none")
    optimizer.zero_grad()
    (losses.sum() / n).backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= 2
    optimizer.step()
    loss = losses.detach().sum() / n
    dist.all_reduce(loss)
    return loss.item()
""",
        )
    ],
}

OTHER = {
    "attention": [
        ("times what it should be", "_attend = attend\ndef attend(*a, **k):\n    return 1.5 * _attend(*a, **k)\n"),
        ("None", "def attend(query, key, value, mask=None):\n    query @ key.mT\n"),
        ("other arguments", "def attend(query, key):\n    return query\n"),
        ("changes what it is given", "_attend = attend\ndef attend(query, key, value, mask=None):\n    query *= 1.0001\n    return _attend(query, key, value, mask)\n"),
        ('2 values came back, and number 1 is right', '_attend = attend\ndef attend(*a, **k):\n    return _attend(*a, **k), 1\n'),
    ],
    "mask": [("shape", "_m = causal_mask\ndef causal_weights(scores):\n    return _m(4).int()\n")],
    "bigram": [
        ("another number", "_t = train_bigram\ndef train_bigram(ids, vocab_size, steps=40):\n    return _t(ids, vocab_size, steps)[0], 1.0\n"),
        ('a tuple of a number and a Bigram', '_t = train_bigram\ndef train_bigram(ids, vocab_size, steps=40):\n    return _t(ids, vocab_size, steps)[::-1]\n'),
    ],
    "sampler": [("0.", "def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):\n    return torch.full_like(logits, 0.25)\n")],
    "characters": [
        ("is still to be written", "class Characters(Characters):\n    def decode(self, ids):\n        raise NotImplementedError\n"),
        ("['e', 'h', 'l', 'l', 'o']", 'class Characters(Characters):\n    def decode(self, ids):\n        return [self.alphabet[i] for i in ids]\n'),
    ],
    "bpe": [
        ("(1, 2)", "def train_merges(words, count):\n    return [(1, 2)] * count\n"),
        ('words: work on a copy of the dict', '_t = train_merges\ndef train_merges(words, count):\n    merges = _t(words, count)\n    words.clear()\n    return merges\n'),
    ],
    "batches": [("IndexError", "def window(ids, start, block_size):\n    return ids[0, 1], ids\n")],
    "heads": [("with scale", "class Attention(Attention):\n    def __init__(self, n_embd, n_head):\n        super().__init__(n_embd, n_head)\n        self.scale = nn.Parameter(torch.ones(1))\n")],
    "model": [
        ("mlp", "class Block(Block):\n    def __init__(self, n_embd, n_head):\n        super().__init__(n_embd, n_head)\n        del self.mlp\n"),
        ('in another shape', 'class GPT(GPT):\n    def forward(self, ids):\n        return super().forward(ids).flatten(0, 1)\n'),
    ],
    "training": [("update 1", "def learning_rate(update, *, lr, min_lr, warmup, steps):\n    return 42.0\n")],
    "sampling": [
        ("[", "def generate(model, ids, count, *, block_size, temperature=1.0, stop=None, generator=None):\n    return [1, 2, 3]\n"),
        ('ids: work on a copy of the list', '_g = generate\ndef generate(model, ids, count, **options):\n    ids += _g(model, ids, count, **options)\n    return ids[-count:]\n'),
    ],
    "evaluation": [
        ("ZeroDivisionError", "def bits_per_character(model, ids, block_size, characters):\n    return 1 / 0\n"),
        ('a list of 3 tuples of 2 lists', '_w = windows\ndef windows(ids, block_size):\n    return [(x.tolist(), y.tolist()) for x, y in _w(ids, block_size)]\n'),
    ],
    "rope": [("shape", "_r = rotate\ndef rotate(x, positions, theta=10000.0):\n    return _r(x, positions, theta)[..., :1]\n")],
    "rmsnorm": [("NaN", "_r = rms_norm\ndef rms_norm(x, gain, eps=1e-6):\n    return _r(x, gain, eps) * float('nan')\n")],
    "mlp": [("wrong sign", "_r = relu2\ndef relu2(x, up, down):\n    return -_r(x, up, down)\n")],
    "grouped": [("64", "def kept_numbers(n_layer, n_kv_head, head_dim, positions):\n    return 64\n")],
    "cache": [("AttributeError", "class Cache(Cache):\n    def write(self, key, value):\n        return self.nothing\n")],
    "muon": [("all are zero", "def orthogonal(matrix, iterations=5):\n    return matrix * 0\n")],
    "lora": [("A", "class LoraLinear(LoraLinear):\n    def __init__(self, base, rank, alpha):\n        super().__init__(base, rank + 1, alpha)\n")],
    "sft": [
        ("the file has no", "del written\n"),
        ('a tuple of 2 lists of 9 numbers', '_e = example\ndef example(turns):\n    return tuple(x.tolist() for x in _e(turns))\n'),
    ],
    "accumulation": [("loss: 1", "def accumulate(model, batches):\n    return 1.0\n")],
    "norms": [("number", "def gradient_sizes(x, norm, parts, kind, factors):\n    return ['number'] * len(parts)\n")],
    "processes": [("[[[0, 1, 2, 3]], [[0, 1]]]", "def own_rows(batch):\n    return batch[:1]\n")],
}  # fmt: skip
