"""EnCodec's layers over rows of different lengths, right-padded into one batch.

A convolution of EnCodec reflects its input at both ends, and what it reflects at the end decides what is
heard there. A row must therefore be reflected at its own end, not at the end of the batch, or it would
sound differently in company. Only a few columns per row and layer are touched (spec 4.2):

    batch        x x x x x x . . . .      x: the row, .: whatever follows it
    convolved  l l|x x x x x x|r r r . .  l, r: its own columns, mirrored at its first and last

A row not longer than a reflection is first continued with zeros, as the original does. What follows a row
is never read by what counts, so it need not be zero, except before a transposed convolution, which spreads
a column over its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import EncodecModel
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecLSTM,
    EncodecResnetBlock,
)

from songstarter.errors import UnknownCheckpoint

Ragged = tuple[torch.Tensor, torch.Tensor]  # columns [batch, channel, time] and lengths [batch, 1]


class RaggedLayers(nn.Module):
    """One half of a codec: the twin of ``EncodecEncoder`` or ``EncodecDecoder``, weight norm folded."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = nn.ModuleList(twin(layer) for layer in layers)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Ragged:
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        return x, lengths


class RaggedConv(nn.Module):
    """A convolution with each row mirrored at its own ends."""

    def __init__(self, original: EncodecConv1d) -> None:
        super().__init__()
        if original.causal or original.norm_type != "weight_norm":
            raise UnknownCheckpoint("the codec is causal or not weight-normed; expected EnCodec for 32 kHz")
        self.conv = _folded(original.conv, nn.Conv1d)
        self.stride = self.conv.stride[0]
        padding = (self.conv.kernel_size[0] - 1) * self.conv.dilation[0] + 1 - self.stride
        self.right = padding // 2
        self.left = padding - self.right
        self.spare = min(self.stride - 1, 1)  # a column that no step reads, for what lies beyond the batch
        before = torch.arange(-self.left, 0)
        after = torch.arange(self.right + self.stride - 1)  # wide enough to fill up a row's last step
        self.offsets = nn.Buffer(torch.cat([before, after]))
        self.is_after = nn.Buffer(torch.cat([torch.zeros_like(before), torch.ones_like(after)]))
        self.mirrors = int(original.pad_mode == "reflect")

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Ragged:
        if self.left == 0:
            return self.conv(x), lengths
        padded = nn.functional.pad(x, (self.left, self.right + self.spare))
        steps = torch.div(lengths + self.stride - 1, self.stride, rounding_mode="trunc")
        places = lengths * self.is_after + self.offsets
        turns = self._turns(lengths, steps)
        sources = (2 * turns - 2) * self.is_after - places
        mirrored = x.gather(2, _per_channel(sources.clamp(0, x.shape[2] - 1), x))
        mirrored = mirrored * (self.mirrors * (sources < lengths))[:, None].to(x.dtype)
        columns = (places + self.left).clamp(max=padded.shape[2] - 1)
        return self.conv(padded.scatter(2, _per_channel(columns, x), mirrored)), steps

    def _turns(self, lengths: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Behind which column each row is mirrored: its last, or that of the zeros which continue a short one."""
        if self.stride == 1:
            return lengths.clamp(min=self.left + 1)
        widest = (steps * self.stride - lengths + self.right).clamp(min=self.left)
        return lengths.maximum(widest + 1)


class RaggedConvTranspose(nn.Module):
    """A transposed convolution that sees nothing behind a row's end."""

    def __init__(self, original: EncodecConvTranspose1d) -> None:
        super().__init__()
        whole = _folded(original.conv, nn.ConvTranspose1d)
        self.stride, self.channels = whole.stride[0], whole.out_channels
        if whole.kernel_size[0] != 2 * self.stride:
            raise UnknownCheckpoint(f"the codec's up-sampling is {whole}; expected kernels of two strides")
        # [input, output, before or at, phase] -> a convolution of two columns that makes every phase a channel
        taps = whole.weight.detach().unflatten(2, (2, self.stride)).flip(2)
        self.conv = nn.Conv1d(whole.in_channels, self.channels * self.stride, 2, padding=1)
        self.conv.weight = nn.Parameter(taps.permute(1, 3, 0, 2).flatten(0, 1))
        self.conv.bias = nn.Parameter(whole.bias.detach().repeat_interleave(self.stride))
        self.trimmed = self.stride - self.stride // 2  # on the left

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Ragged:
        phases = self.conv(x * inside(x, lengths)).unflatten(1, (self.channels, self.stride))
        y = phases.transpose(2, 3).flatten(2)
        return y[..., self.trimmed : self.trimmed + x.shape[2] * self.stride], lengths * self.stride


class RaggedBlock(nn.Module):
    """A residual block."""

    def __init__(self, original: EncodecResnetBlock) -> None:
        super().__init__()
        self.block = RaggedLayers(original.block)
        self.shortcut = twin(original.shortcut)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Ragged:
        return self.shortcut(x, lengths)[0] + self.block(x, lengths)[0], lengths


class RaggedLSTM(nn.Module):
    """An LSTM with its skip; it runs forward in time, so what follows a row cannot reach it."""

    def __init__(self, original: EncodecLSTM) -> None:
        super().__init__()
        self.lstm = original.lstm

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Ragged:
        steps = x.permute(2, 0, 1)
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0), lengths


class RaggedELU(nn.Module):
    """The larger of x and e^x - 1: onnxruntime's own operator computes its exponentials one by one, in 2.3 times the
    time of these four."""

    def __init__(self, original: nn.ELU) -> None:
        super().__init__()
        if original.alpha != 1.0:
            raise UnknownCheckpoint(f"the codec's ELU has alpha {original.alpha}; expected 1")

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Ragged:
        return torch.maximum(x, x.clamp(max=0).exp() - 1), lengths


class RaggedIdentity(nn.Module):
    """A shortcut that is none."""

    def __init__(self, original: nn.Identity) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Ragged:
        return x, lengths


_TWINS: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    EncodecConv1d: RaggedConv,
    EncodecConvTranspose1d: RaggedConvTranspose,
    EncodecResnetBlock: RaggedBlock,
    EncodecLSTM: RaggedLSTM,
    nn.ELU: RaggedELU,
    nn.Identity: RaggedIdentity,
}


def twin(layer: nn.Module) -> nn.Module:
    """The layer's own twin.

    Raises:
        UnknownCheckpoint: EnCodec has no such layer.
    """
    if type(layer) not in _TWINS:
        raise UnknownCheckpoint(f"the codec has a layer {type(layer).__name__}; expected those of EnCodec")
    return _TWINS[type(layer)](layer)


def unpadded(original: EncodecConv1d) -> nn.Module:
    """A convolution whose caller brings the columns on either side along."""
    return _folded(original.conv, nn.Conv1d)


def require_mirrored(codec: EncodecModel) -> None:
    """Raises UnknownCheckpoint for a codec that pads with anything but its own mirrored columns."""
    if codec.config.pad_mode != "reflect":
        raise UnknownCheckpoint(f"the codec's pad_mode is {codec.config.pad_mode!r}; expected 'reflect'")


def inside(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """One where a row has columns, zero behind its end: [batch, 1, time]."""
    return (torch.arange(x.shape[-1]) < lengths)[:, None].to(x.dtype)


def _per_channel(indices: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[batch, column] -> [batch, channel, column]."""
    return indices[:, None].expand(-1, x.shape[1], -1)


def _folded(normed: nn.Module, kind: type[nn.Conv1d] | type[nn.ConvTranspose1d]) -> nn.Module:
    """The convolution with its weight computed once."""
    plain = kind(
        normed.in_channels,
        normed.out_channels,
        normed.kernel_size,
        normed.stride,
        dilation=normed.dilation,
    )
    plain.load_state_dict({"weight": normed.weight.detach(), "bias": normed.bias.detach()})
    return plain
