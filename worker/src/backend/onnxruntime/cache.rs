//! The key/value cache of a cell: buffers on the device, bound to the graph's inputs and outputs.

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session as Graph};
use ort::value::{DynTensor, TensorElementType};
use regatta_core::artifact::Precision;
use regatta_core::device::DeviceId;
use regatta_core::model::Shape;

use super::Provider;

/// Where a cache is to be.
pub(super) struct Place<'a> {
    pub(super) graph: &'a Graph,
    pub(super) provider: Provider,
    pub(super) device: DeviceId,
}

/// A key or value cache of one layer, as the graph calls it.
struct Names {
    past: String,
    present: String,
}

/// The caches of all layers.
pub(super) struct Cache {
    names: Vec<Names>,
    dims: [i64; 4],
    number: TensorElementType,
    /// What the next step reads. Where buffers take turns these are in the host's memory before the first step.
    past: Vec<DynTensor>,
    /// What it writes; empty where that is the same.
    present: Vec<DynTensor>,
    /// Those on the device that come into play after the first step.
    spare: Vec<DynTensor>,
}

impl Cache {
    /// The cache for so many sequences of so many positions, without memory.
    pub(super) fn new(shape: &Shape, precision: Precision, batch: u32, capacity: u32) -> Self {
        let name = |layer: u32, what: &str| Names {
            past: format!("past_key_values.{layer}.{what}"),
            present: format!("present.{layer}.{what}"),
        };
        Self {
            names: (0..shape.layers).flat_map(|layer| [name(layer, "key"), name(layer, "value")]).collect(),
            dims: [batch, shape.kv_heads, capacity, shape.head_dim()].map(i64::from),
            number: if precision == Precision::F16 { TensorElementType::Float16 } else { TensorElementType::Float32 },
            past: Vec::new(),
            present: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Whether steps write into the buffers that they read: see the module above.
    pub(super) fn is_in_place(provider: Provider) -> bool {
        provider == Provider::Cpu
    }

    /// Takes the memory, and binds what stays bound.
    pub(super) fn allocate(&mut self, place: &Place<'_>, binding: &mut IoBinding) -> ort::Result<()> {
        let host = Allocator::default();
        self.past = self.buffers(&host)?;
        for buffer in &mut self.past {
            empty(buffer)?;
        }
        if Self::is_in_place(place.provider) {
            for (names, buffer) in self.names.iter().zip(&mut self.past) {
                binding.bind_input(&names.past, buffer)?;
                binding.bind_output(&names.present, buffer)?;
            }
            return Ok(());
        }
        let device = Allocator::new(place.graph, memory(place)?)?;
        self.present = self.buffers(&device)?;
        self.spare = self.buffers(&device)?;
        Ok(())
    }

    fn buffers(&self, allocator: &Allocator) -> ort::Result<Vec<DynTensor>> {
        self.names.iter().map(|_| DynTensor::new(allocator, self.number, self.dims)).collect()
    }

    /// Binds the buffers whose turn it is.
    pub(super) fn bind(&mut self, binding: &mut IoBinding) -> ort::Result<()> {
        // In place they are bound once for all.
        for ((names, past), present) in self.names.iter().zip(&self.past).zip(&mut self.present) {
            binding.bind_input(&names.past, past)?;
            binding.bind_output(&names.present, present)?;
        }
        Ok(())
    }

    /// What was written is read next.
    pub(super) fn swap(&mut self) {
        if self.present.is_empty() {
            return;
        }
        std::mem::swap(&mut self.past, &mut self.present);
        if !self.spare.is_empty() {
            self.present = std::mem::take(&mut self.spare);
        }
    }
}

/// Fills a buffer in the host's memory with zeros: positions that are masked must still hold numbers.
fn empty(buffer: &mut DynTensor) -> ort::Result<()> {
    match buffer.data_type() {
        TensorElementType::Float16 => buffer.try_extract_tensor_mut::<half::f16>()?.1.fill(half::f16::ZERO),
        _ => buffer.try_extract_tensor_mut::<f32>()?.1.fill(0.0),
    }
    Ok(())
}

/// The device's memory.
fn memory(place: &Place<'_>) -> ort::Result<MemoryInfo<'static>> {
    let index = i32::try_from(place.device.index).unwrap_or(i32::MAX);
    let device = match place.provider {
        // CoreML's provider takes its inputs from the host's memory, which is the same there.
        Provider::Cpu | Provider::CoreMl => {
            return MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default);
        }
        Provider::Cuda => AllocationDevice::CUDA,
        Provider::DirectMl => AllocationDevice::DIRECTML,
    };
    MemoryInfo::new(device, index, AllocatorType::Device, MemoryType::Default)
}
