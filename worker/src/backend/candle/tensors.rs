//! Safetensors for candle, read tensor by tensor: at no time is more than one tensor held twice.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use regatta_models::ModelError;
use regatta_models::safetensors::{Dtype, Reader, TensorInfo, open_weights};

use crate::backend::BackendError;

/// The files of a model, with where each tensor is.
pub(super) struct Safetensors {
    /// Readers seek, so each is behind a lock; candle loads from one thread.
    files: Vec<Mutex<Reader>>,
    /// By name: which file, and where in it.
    places: HashMap<String, (usize, TensorInfo)>,
}

impl Safetensors {
    /// Opens the model in `folder`.
    pub(super) fn open(folder: &Path) -> std::result::Result<Self, BackendError> {
        let weights = open_weights(folder).map_err(BackendError::rejected)?;
        let mut files = Vec::new();
        let mut places = HashMap::new();
        for (path, header) in weights.files {
            places.extend(header.tensors.into_iter().map(|tensor| (tensor.name.clone(), (files.len(), tensor))));
            files.push(Mutex::new(Reader::open(&path).map_err(BackendError::rejected)?));
        }
        Ok(Self { files, places })
    }

    fn read(&self, file: usize, tensor: &TensorInfo) -> std::result::Result<Vec<u8>, ModelError> {
        let mut bytes = vec![0; usize::try_from(tensor.bytes()).unwrap_or(usize::MAX)];
        let mut reader = self.files[file].lock().unwrap_or_else(PoisonError::into_inner);
        reader.read(tensor, 0, &mut bytes)?;
        Ok(bytes)
    }
}

impl SimpleBackend for Safetensors {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() == &shape {
            return Ok(tensor);
        }
        Err(Error::UnexpectedShape {
            msg: format!("shape mismatch for {name}"),
            expected: shape,
            got: tensor.shape().clone(),
        }
        .bt())
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let place = self.places.get(name);
        let (file, tensor) = place.ok_or_else(|| Error::CannotFindTensor { path: name.to_owned() }.bt())?;
        let stored = match tensor.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::Bf16 => DType::BF16,
            other => candle_core::bail!("{name} is stored as {other}"),
        };
        let dims: Vec<usize> = tensor.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
        let bytes = self.read(*file, tensor).map_err(Error::wrap)?;
        Tensor::from_raw_buffer(&bytes, stored, &dims, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }
}
