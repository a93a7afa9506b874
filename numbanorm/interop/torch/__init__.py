"""Drop-ins for torch's norm layers on CPU and CUDA tensors, forward and backward by `numbanorm`.

    from numbanorm.interop.torch import convert
    model = convert(model)  # its norm layers compute with numbanorm from now on

The functions have the signatures of torch.nn.functional, the modules are subclasses of torch's own of the same names: repr,
state_dict and pickling are torch's. Results and gradients are those of the functions for NumPy arrays, to the bit, and work
with autograd and torch.compile. Tensors are read and written where they lie; batch, group and instance norm read and write
channels_last tensors as such. What is neither that nor contiguous is copied first, as torch does. Higher derivatives, of any
order, are computed by torch's operations in float64 and rounded at the end. Calls of plain tensors on the CPU pass torch's
dispatcher by, unless a compiler, mode, transform, tracer or profiler wants to see them: docs/torch.md.

`convert` also takes RMS norms of the library transformers, and keeps their order of roundings, and timm's BatchNormAct2d and
GroupNormAct. `FusedAddLayerNorm`, `FusedAddRMSNorm` and `BatchNormAct2d` do what stands around a norm in its passes.

`SyncBatchNorm` and `convert_sync_batchnorm` are for batches that are spread over processes, on the CPU, which torch's refuse.

The functions, the modules and `convert` take `exact` by name: as for `numbanorm.layer_norm`, False by default.

Where they are not like torch's:

- What torch refuses with RuntimeError or NotImplementedError (shapes, dtypes) is a ValueError or TypeError here.
- weight, bias and running statistics may have another float type than the input, whichever it is.
- There are no forward-mode derivatives: a tensor with a tangent raises RuntimeError.
- torch.vmap makes one call for each example; torch.compile leaves the transforms of torch.func to Python.
- rms_norm returns contiguous tensors, whatever the input's strides; instance_norm keeps channels_last, torch's does not.
- A subclass of Tensor is shown these functions in its __torch_function__, not torch's.
- Tensors on devices other than the CPU and CUDA's are refused; tensors on the meta device give the shapes.
- A batch that is refused is not counted in num_batches_tracked.
- Where torch has to see through the modules (ONNX export, jagged tensors, per-sample gradients) torch computes: docs/torch.md.
"""

from .around import AROUND, BatchNormAct2d, FusedAddLayerNorm, FusedAddRMSNorm
from .convert import RECOGNIZERS, convert, revert
from .modules import (
    MODULES,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)
from .norms import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .recognized import recognize
from .report import report
from .synchronized import SyncBatchNorm
from .timm import recognize_timm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct2d",
    "FusedAddLayerNorm",
    "FusedAddRMSNorm",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
    "SyncBatchNorm",
    "batch_norm",
    "convert",
    "convert_sync_batchnorm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "report",
    "revert",
    "rms_norm",
]

convert_sync_batchnorm = SyncBatchNorm.convert_sync_batchnorm
for _module in (*MODULES, SyncBatchNorm, *AROUND):
    _module.__module__ = __name__  # where users know them: pickles of whole modules name it
RECOGNIZERS.extend((recognize, recognize_timm))
