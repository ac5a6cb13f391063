//! PyTorch checkpoints: which tensors the pickle describes, and in which storage each lies.

use super::dtype::Dtype;
use super::error::Error;
use super::pickle::{Id, Objects, Value};
use super::source::{Place, Stored, Zip, entry_name, entry_size, read_entry};
use std::collections::HashMap;
use std::path::Path;

/// Longest pickle: ten thousand tensors take three megabytes. A byte can ask for a value of 32, so this bounds memory too.
const MAX_PICKLE: u64 = 1 << 23;
/// Where training scripts put the weights of a checkpoint that holds more.
const KEYS: [&str; 3] = ["model", "state_dict", "model_state_dict"];

/// Lists the tensors of the state dictionary that the pickle in entry `pickle` describes.
pub(super) fn list(path: &Path, zip: &mut Zip, pickle: usize) -> Result<Vec<Stored>, Error> {
    let broken = |cause: String| Error::file(path, cause);
    let size = entry_size(zip, pickle).map_err(broken)?;
    if size > MAX_PICKLE {
        return Err(broken(format!(
            "its pickle has {size} bytes, at most {MAX_PICKLE} are read"
        )));
    }
    let bytes = read_entry(zip, pickle, 0, size as usize).map_err(broken)?;
    let objects = Objects::read(&bytes).map_err(broken)?;
    let name = entry_name(zip, pickle).unwrap_or_default();
    let directory = name.trim_end_matches("data.pkl");
    check_byte_order(zip, directory).map_err(broken)?;
    let names = (0..zip.len()).filter_map(|index| Some((entry_name(zip, index)?, index)));
    let storages = Storages {
        directory,
        entries: names.collect(),
    };
    let tensors = state_dict(&objects).map_err(broken)?.iter();
    let stored = tensors.filter_map(|(key, value)| {
        let name = objects.text(*key)?;
        tensor(&objects, *value, &storages).map(|found| stored(name, found))
    });
    Ok(stored.collect())
}

struct Storages<'a> {
    directory: &'a str,
    entries: HashMap<String, usize>,
}

/// Newer files say how their numbers are stored.
fn check_byte_order(zip: &mut Zip, directory: &str) -> Result<(), String> {
    let Some(index) = zip.index_for_name(&format!("{directory}byteorder")) else {
        return Ok(());
    };
    let size = entry_size(zip, index)?.min(16) as usize;
    match read_entry(zip, index, 0, size)?.as_slice() {
        b"little" => Ok(()),
        _ => Err("its numbers are big-endian: save it anew on a little-endian machine".into()),
    }
}

/// The dictionary of tensors: the pickled one, or the one below a usual key.
fn state_dict(objects: &Objects) -> Result<&[(Id, Id)], String> {
    let root = objects.root();
    let Some(items) = objects.dict(root) else {
        return Err(match objects.call(root) {
            Some((class, _)) => format!("it holds a {class} instead of a state dictionary: save model.state_dict()"),
            None => "it holds no state dictionary: save model.state_dict()".into(),
        });
    };
    let below = |key: &str| {
        let item = items.iter().find(|(name, _)| objects.text(*name) == Some(key));
        item.and_then(|(_, value)| objects.dict(*value))
    };
    Ok(KEYS.iter().find_map(|key| below(key)).unwrap_or(items))
}

/// Shape, type and place of a tensor, or why it cannot be read.
struct Found {
    shape: Vec<usize>,
    dtype: Dtype,
    place: Place,
}

fn stored(name: &str, found: Result<Found, String>) -> Stored {
    let found = found.unwrap_or_else(|why| Found {
        shape: Vec::new(),
        dtype: Dtype::F32,
        place: Place::Nowhere(why),
    });
    Stored {
        name: name.to_owned(),
        shape: found.shape,
        dtype: found.dtype,
        place: found.place,
    }
}

/// A pickled tensor; none for anything else, such as an epoch's number.
fn tensor(objects: &Objects, id: Id, storages: &Storages) -> Option<Result<Found, String>> {
    let (function, arguments) = objects.call(id)?;
    match function {
        "torch._utils._rebuild_tensor_v2" => Some(rebuilt(objects, arguments, storages)),
        // A parameter wraps a tensor: one level, never more.
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
            let (function, arguments) = objects.call(*arguments.first()?)?;
            (function == "torch._utils._rebuild_tensor_v2").then(|| rebuilt(objects, arguments, storages))
        }
        "torch._tensor._rebuild_from_type_v2" => {
            let (function, arguments) = (objects.global(*arguments.first()?)?, objects.tuple(*arguments.get(2)?)?);
            (function == "torch._utils._rebuild_tensor_v2").then(|| rebuilt(objects, arguments, storages))
        }
        _ => None,
    }
}

/// Storage, offset, shape and stride, as `_rebuild_tensor_v2` takes them.
fn rebuilt(objects: &Objects, arguments: &[Id], storages: &Storages) -> Result<Found, String> {
    let odd = || "its description in the pickle is not understood".to_owned();
    let [storage, offset, shape, stride, ..] = arguments else {
        return Err(odd());
    };
    let dims = |id: &Id| -> Option<Vec<usize>> {
        let dims = objects.tuple(*id)?.iter();
        dims.map(|dim| usize::try_from(objects.int(*dim)?).ok()).collect()
    };
    let shape = dims(shape).ok_or_else(odd)?;
    let stride = dims(stride).ok_or_else(odd)?;
    if !contiguous(&shape, &stride) {
        return Err("it is stored transposed or sliced: call .contiguous() on it before saving".into());
    }
    let offset = objects
        .int(*offset)
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(odd)?;
    let (dtype, key) = storage_of(objects, *storage).ok_or_else(odd)?;
    let index = storages.entries.get(&format!("{}data/{key}", storages.directory));
    let index = *index.ok_or_else(|| format!("its storage {key} is not in the file"))?;
    let skip = offset.checked_mul(dtype.size_bytes() as u64).ok_or_else(odd)?;
    let place = Place::Entry { index, skip };
    Ok(Found { shape, dtype, place })
}

/// Element type and file name of a storage: `("storage", class, key, device, elements)`.
fn storage_of(objects: &Objects, id: Id) -> Option<(Dtype, &str)> {
    let Value::Outside(reference) = objects.get(id) else {
        return None;
    };
    let [tag, class, key, ..] = objects.tuple(*reference)? else {
        return None;
    };
    if objects.text(*tag)? != "storage" {
        return None;
    }
    let dtype = match objects.global(*class)? {
        "torch.HalfStorage" => Dtype::F16,
        "torch.BFloat16Storage" => Dtype::Bf16,
        "torch.FloatStorage" => Dtype::F32,
        "torch.DoubleStorage" => Dtype::F64,
        "torch.LongStorage" => Dtype::I64,
        _ => Dtype::Other,
    };
    Some((dtype, objects.text(*key)?))
}

/// Whether elements follow each other in row-major order; strides of dimensions of one element do not matter.
fn contiguous(shape: &[usize], stride: &[usize]) -> bool {
    let mut expected = 1_usize;
    shape.len() == stride.len()
        && shape.iter().zip(stride).rev().all(|(dim, stride)| {
            let fits = *dim <= 1 || *stride == expected;
            expected = expected.saturating_mul((*dim).max(1));
            fits
        })
}

#[cfg(test)]
mod tests {
    use super::contiguous;

    #[test]
    fn only_row_major_order_is_contiguous() {
        assert!(contiguous(&[], &[]) && contiguous(&[2, 3], &[3, 1]) && contiguous(&[1, 5], &[99, 1]));
        assert!(!contiguous(&[2, 3], &[1, 2]) && !contiguous(&[4], &[2]) && !contiguous(&[2], &[]));
    }
}
