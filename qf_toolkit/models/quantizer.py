"""The codebook: nearest code (paper eq. 1), straight-through gradients, and the improvements of Huh et al. 2023 that the paper names.

Affine re-parametrisation: the code vectors are e * (1 + affine_lr * scale) + affine_lr * bias, with learned scale and bias, so that
rarely used codes move with the others. Synchronised update: the reconstruction's gradient, times `sync`, also reaches the chosen code vectors.
Replacement: encoder outputs of the current batch replace codes that were unused for `replace_every` steps. Values are the released code's.

Ours: a code also counts as unused if its share of the places is at most `replace_below`, because a code that a single odd window keeps alive is
worth as little as a dead one. 0 is the released code's rule.

Deviation from the published straight-through formula z + sg(e - z): the autograd function returns the code vectors themselves, bit for
bit, so that decoding the codes gives exactly what the forward pass gave.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .host import may_ask


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, vectors, sync):
        ctx.sync = sync
        return vectors.clone()

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        return grad, ctx.sync * grad, None


class Quantizer(nn.Module):
    """K code vectors of D dimensions.

    Parameters
    ----------
    codes, width : int
        K and D.
    beta : float
        The loss is (1 - beta) * |z - sg(e)|^2 + beta * |sg(z) - e|^2.
    affine_lr, sync : float
        Factors of the affine map and of the synchronised update; see the head of this file.
    replace_every : int
        Steps between replacements; 0 never replaces.
    replace_below : float
        A code is replaced if its share of the places since the last replacement is at most this, from 0 to below 1 / K.

    Attributes
    ----------
    uses : long tensor, shape (K,)
        How often each code was chosen since the last replacement.
    step : long tensor, scalar
        Training steps so far.
    """

    uses: torch.Tensor
    step: torch.Tensor

    def __init__(self, *, codes, width, beta=0.25, affine_lr=10.0, sync=0.2, replace_every=20, replace_below=0.0):
        super().__init__()
        self.beta, self.affine_lr, self.sync = beta, affine_lr, sync
        self.replace_every, self.replace_below = replace_every, replace_below
        self.codebook = nn.Parameter(torch.randn(codes, width))
        self.scale, self.bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("uses", torch.zeros(codes, dtype=torch.long))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @property
    def vectors(self):
        """The code vectors after the affine map, (K, D). The nearest code and the decoder use only these."""
        return self.codebook * (1 + self.affine_lr * self.scale) + self.affine_lr * self.bias

    def nearest(self, z):
        """Codes of the nearest vectors, long (...), for z (..., D). Distances are always float32."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            z, e = z.float(), self.vectors.float()
            return (e.square().sum(-1) - 2 * z @ e.T).argmin(-1)

    def forward(self, z):
        """Replace each vector by its nearest code vector.

        Parameters
        ----------
        z : float tensor, shape (B, P, D)

        Returns
        -------
        vectors : float tensor, shape (B, P, D)
        codes : long tensor, shape (B, P)
        loss : float tensor, scalar
            0 in eval.
        """
        if self.training:
            self._replace_unused(z.detach())  # before the graph is built: autograd must not see the codebook change
        codes = self.nearest(z)
        if not self.training:
            return self.vectors[codes], codes, z.new_zeros(())
        # not bincount, which on a device would wait for the greatest code
        self.uses.index_add_(0, codes.flatten(), self.uses.new_ones(()).expand(codes.numel()))
        # not vectors[codes]: with several threads, the gradient of indexing is summed in an order that differs from run to run
        e = F.embedding(codes, self.vectors)
        loss = ((1 - self.beta) * (z - e.detach()).square() + self.beta * (z.detach() - e).square()).mean()
        out = _StraightThrough.apply(z, e.to(z.dtype), self.sync)
        return out, codes, loss

    @torch.no_grad()
    def _replace_unused(self, z):
        """Every `replace_every` steps, replace the codes that were hardly used since the last replacement by encoder outputs `z` (B, P, D)."""
        self.step += 1
        if not self.replace_every:
            return
        due, pool = self.step % self.replace_every == 0, z.flatten(0, -2).float()
        if not may_ask(z.device):  # compute the replacement at every step, and keep it only if it is due
            dead = due & (self.uses <= self.replace_below * self.uses.sum())
            self.codebook.copy_(torch.where(dead[:, None], self._drawn(pool, len(dead)), self.codebook))
            self.uses.masked_fill_(due, 0)
        elif due:
            dead = torch.nonzero(self.uses <= self.replace_below * self.uses.sum()).flatten()
            self.uses.zero_()
            if len(dead):
                self.codebook[dead] = self._drawn(pool, len(dead))

    def _drawn(self, pool, n):
        """Entries (n, D) of the codebook whose code vectors equal `n` random rows of the encoder's outputs `pool` (b, D)."""
        new = pool[torch.randint(len(pool), (n,), device=pool.device)]
        return ((new - self.affine_lr * self.bias) / (1 + self.affine_lr * self.scale)).to(self.codebook.dtype)
