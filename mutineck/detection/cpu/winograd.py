"""3x3 convolutions of frozen networks by Winograd's minimal filtering: a quarter of the multiplications.

A CPU runs convolutions at the speed of its arithmetic, so a frozen network gets faster by doing less of it. With tiles
of 4x4 outputs, each made from 6x6 inputs, a 3x3 convolution is

    Y = A^T [ sum_c (G g G^T) (B^T d B) ] A

where the sum over channels is 36 products of matrices and the transforms of inputs and outputs are additions of few
numbers. The transformed weights are made once. GPUs need none of this: cuDNN has it.

References:
    [1] Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1 and F(4x4, 3x3),
        https://arxiv.org/abs/1509.09308
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE, PATCH = 4, 6
"""Outputs and inputs of a tile, along each axis."""
TILES = 128
"""Worked on at once: many enough for products of matrices, few enough to stay in a processor's cache."""

_INPUT = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
)
_WEIGHT = (
    torch.tensor(
        [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
        dtype=torch.float64,
    )
    / 24
)
_OUTPUT = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float32
)
# Both axes of a tile at once: one product of matrices each.
INPUT, OUTPUT = torch.kron(_INPUT, _INPUT), torch.kron(_OUTPUT, _OUTPUT)


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 that takes the faster of two ways; equal to `Conv2d` to rounding.

    Weights and their names are those of the convolution that it is made from. Whatever the short way does not serve
    (gradients, other devices and types, maps too small to gain) goes the usual one.

    Args:
        convolution: see `suits`; its weights are shared.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            3,
            padding=1,
            bias=convolution.bias is not None,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        self.training = convolution.training
        # A plain attribute: it follows from the weights, and state dicts are to be those of the plain network.
        self._transformed: tuple[int, Tensor] | None = None

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a convolution that has a short way."""
        return (
            type(module) is nn.Conv2d
            and module.kernel_size == (3, 3)
            and module.stride == module.dilation == (1, 1)
            and module.padding == (1, 1)
            and module.padding_mode == "zeros"
            and module.groups == 1
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution `(N, C_out, H, W)` of maps `(N, C_in, H, W)`."""
        usable = input.device.type == "cpu" and input.dtype == self.weight.dtype == torch.float32
        learns = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if not usable or learns or torch.is_autocast_enabled("cpu") or not self._gains(input):
            return super().forward(input)
        return convolve(input, self._weights(), self.bias)

    def _gains(self, maps: Tensor) -> bool:
        """Whether multiplications saved outweigh the transforms and the larger weights, by a margin."""
        n, c, height, width = maps.shape
        k = self.out_channels
        tiles = n * -(-height // TILE) * -(-width // TILE)
        # Measured on one core of an x86 processor with AVX2, in multiply-adds of a good product of matrices.
        short = 36 * tiles * c * k * 1.3 + tiles * (2850 * c + 2000 * k) + 36 * c * k * 27
        return short < 0.95 * (9 * n * height * width * c * k)

    def _weights(self) -> Tensor:
        """Return the transformed weights `(36, C_in, C_out)`, made at the first call and after a change."""
        version = self.weight._version
        if self._transformed is None or self._transformed[0] != version:
            self._transformed = version, transform(self.weight)
        return self._transformed[1]


def transform(weight: Tensor) -> Tensor:
    """Return `G g G^T` `(36, C_in, C_out)` float32 of weights `(C_out, C_in, 3, 3)`."""
    # In float64: what is rounded here would be in every output.
    found = torch.einsum("ai,kcij,bj->abck", _WEIGHT, weight.detach().double(), _WEIGHT)
    return found.flatten(0, 1).float().contiguous()


@torch.no_grad()
def convolve(maps: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """Return a 3x3 convolution with zero padding of 1.

    Args:
        maps: `(N, C_in, H, W)` float32 on the CPU, any layout.
        weights: of `transform`.
        bias: `(C_out,)`, or None.

    Returns:
        `(N, C_out, H, W)`, channels-last.
    """
    n, c, height, width = maps.shape
    k = weights.shape[2]
    high, wide = -(-height // TILE), -(-width // TILE)
    border = (0, 0, 1, TILE * wide + 1 - width, 1, TILE * high + 1 - height)
    padded = functional.pad(maps.permute(0, 2, 3, 1), border)  # (N, H', W', C)
    image, row, column, _ = padded.stride()
    patches = padded.as_strided((PATCH, PATCH, n, high, wide, c), (row, column, image, TILE * row, TILE * column, 1))
    found = maps.new_empty(n, high, TILE, wide, TILE, k)
    rows, images = max(1, min(high, TILES // wide)), max(1, min(n, TILES // (wide * high)))
    most = images * rows * wide
    gathered, changed = maps.new_empty(36 * most * c), maps.new_empty(36 * most * c)
    products, outputs = maps.new_empty(36 * most * k), maps.new_empty(16 * most * k)
    for i in range(0, n, images):
        for r in range(0, high, rows):
            part = patches[:, :, i : i + images, r : r + rows]
            here = part[0, 0].numel() // c  # tiles
            gathered[: 36 * here * c].view(part.shape).copy_(part)
            torch.mm(INPUT, gathered[: 36 * here * c].view(36, -1), out=changed[: 36 * here * c].view(36, -1))
            product = products[: 36 * here * k].view(36, here, k)
            torch.bmm(changed[: 36 * here * c].view(36, here, c), weights, out=product)
            output = outputs[: 16 * here * k].view(16, -1)
            torch.mm(OUTPUT, product.view(36, -1), out=output)
            tiles = output.view(TILE, TILE, *part.shape[2:5], k).permute(2, 3, 0, 4, 1, 5)
            target = found[i : i + images, r : r + rows]
            if bias is None:
                target.copy_(tiles)
            else:
                torch.add(tiles, bias, out=target)
    whole = found.view(n, TILE * high, TILE * wide, k)[:, :height, :width].permute(0, 3, 1, 2)
    return whole.contiguous(memory_format=torch.channels_last)


def with_winograd(module: nn.Module) -> nn.Module:
    """Put `WinogradConv2d` in the place of every convolution of a network that it suits; return the network."""
    if WinogradConv2d.suits(module):
        return WinogradConv2d(module)  # type: ignore[arg-type]
    for name, child in module.named_children():
        setattr(module, name, with_winograd(child))
    return module
