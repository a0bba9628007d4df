"""The head that decodes behaviour from the states of a frozen population model (CalM, arXiv 2604.04958, released code): gated and of low rank, or linear.

    u = A_u h,  v = A_v h                      rank values of a neuron and token, the same A for all neurons
    z = dropout(u * GELU(v))                   the linear head: z = dropout(u)
    y_o = sum over neurons n and ranks r of z_nr B_onr + b_o

Outputs are frames of variables (or classes); B is each neuron's own. Where this differs from the released code:

- States are standardised by their training mean and spread, each neuron's apart, so that a missing neuron adds nothing; A has no bias.
- A decoded frame takes the newest state that has seen no later frame, unless the caller maps frames otherwise. There, each frame takes the state of its
  own token, which has seen the rest of the token.
- The smoothing of the decoded frames, a depthwise convolution that begins as the identity, reads present and past frames alone, and is off by default.
  There, it is centred, of 9 frames.
"""

import torch
import torch.nn.functional as F
from torch import nn


class DecoderHead(nn.Module):
    """Maps states to outputs.

    Parameters
    ----------
    width : int
        Of a state.
    n_neurons : int
    n_variables : int
        Variables, or classes.
    parts : int
        Outputs of a variable a token: the frames that a token's state serves.
    rank : int
    gated : bool
        False: the linear head.
    dropout : float
    smooth : int
        Frames of the causal smoothing; 0 for none.
    """

    def __init__(
        self, width: int, n_neurons: int, n_variables: int, parts: int, rank: int = 16, gated: bool = True, dropout: float = 0.5, smooth: int = 0
    ):
        super().__init__()
        self.n_variables, self.parts = n_variables, parts
        self.register_buffer("mean", torch.zeros(n_neurons, width))
        self.register_buffer("sd", torch.ones(n_neurons, width))
        self.u = nn.Parameter(torch.randn(width, rank) * width**-0.5)
        self.v = nn.Parameter(torch.randn(width, rank) * width**-0.5) if gated else None
        self.readout = nn.Parameter(torch.randn(n_variables * parts, n_neurons, rank) * 0.1 * (n_neurons * rank) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(n_variables * parts))
        self.kernel = nn.Parameter(F.one_hot(torch.tensor(smooth - 1), smooth).float().repeat(n_variables, 1)) if smooth else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        """Decode the outputs of each token.

        Parameters
        ----------
        h : float tensor, shape (B, N, token, width)
        missing : bool tensor, shape (B, N)
            Neurons that are at their training mean in a trial.

        Returns
        -------
        float tensor, shape (B, n_variables, token, parts)
        """
        h = ((h - self.mean[:, None]) / self.sd[:, None]).masked_fill(missing[:, :, None, None], 0.0)
        z = h @ self.u
        if self.v is not None:
            z = z * F.gelu(h @ self.v)
        y = torch.einsum("bntr,onr->bot", self.dropout(z), self.readout) + self.bias[:, None]
        return y.unflatten(1, (self.n_variables, self.parts)).transpose(2, 3)

    def frames(self, h: torch.Tensor, missing: torch.Tensor, token: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """Decode frames.

        Parameters
        ----------
        h, missing
            As for `forward`.
        token, part : long tensors, shape (time,)
            Which output of which token a frame takes; token -1 for a frame that no state may serve, which is decoded as 0.

        Returns
        -------
        float tensor, shape (B, n_variables, time)
        """
        y = self(h, missing)[:, :, token.clamp(min=0), part] * (token >= 0)
        if self.kernel is None:
            return y
        n = self.kernel.shape[1]
        return F.conv1d(F.pad(y, (n - 1, 0)), self.kernel[:, None], groups=self.n_variables)
