//! NumPy's npz: a zip of arrays, each with a short header in front.

use super::dtype::Dtype;
use super::error::Error;
use super::source::{Place, Stored, Zip, entry_name, entry_size};
use std::io::Read;
use std::path::Path;

/// Magic, version and length of the header: at most this many bytes.
const FIXED: usize = 12;
/// Longest header: an array's shape takes a line.
const MAX_HEADER: usize = 1 << 16;

/// Lists the arrays.
pub(super) fn list(path: &Path, zip: &mut Zip) -> Result<Vec<Stored>, Error> {
    let mut stored = Vec::new();
    for index in 0..zip.len() {
        let name = entry_name(zip, index).unwrap_or_default();
        let Some(name) = name.strip_suffix(".npy") else {
            let cause =
                format!("the zip is neither a PyTorch checkpoint nor a file of NumPy arrays: it holds {name:?}");
            return Err(Error::file(path, cause));
        };
        let array = array(zip, index).map_err(|cause| Error::tensor(path, name, cause))?;
        stored.push(Stored {
            name: name.to_owned(),
            ..array
        });
    }
    Ok(stored)
}

fn array(zip: &mut Zip, index: usize) -> Result<Stored, String> {
    let size = entry_size(zip, index)?;
    let head = peek(zip, index, FIXED.min(size as usize))?;
    let (start, length) = match head.as_slice() {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([*a, *b]))),
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d] => {
            (12, u32::from_le_bytes([*a, *b, *c, *d]) as usize)
        }
        _ => return Err("it does not begin as a NumPy array does".into()),
    };
    if length > MAX_HEADER || (start + length) as u64 > size {
        return Err(format!("its header claims {length} bytes"));
    }
    let header = peek(zip, index, start + length)?.split_off(start);
    let header = String::from_utf8(header).map_err(|_| "its header is no text")?;
    let (dtype, shape) = parse(&header)?;
    Ok(Stored {
        name: String::new(),
        shape,
        dtype,
        place: Place::Entry {
            index,
            skip: (start + length) as u64,
        },
    })
}

/// The first bytes of an entry, its CRC unchecked.
fn peek(zip: &mut Zip, index: usize, size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; size];
    let mut entry = zip.by_index(index).map_err(|e| e.to_string())?;
    entry.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn parse(header: &str) -> Result<(Dtype, Vec<usize>), String> {
    let odd = || format!("its header is not understood: {:?}", header.trim_end());
    let after = |key: &str| {
        header
            .split_once(key)
            .map(|(_, rest)| rest.trim_start_matches([' ', ':']))
    };
    let descr = after("'descr'")
        .and_then(|rest| rest.strip_prefix('\''))
        .ok_or_else(odd)?;
    let dtype = match descr.split('\'').next().unwrap_or_default() {
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        "<i8" => Dtype::I64,
        _ => Dtype::Other,
    };
    if !after("'fortran_order'").ok_or_else(odd)?.starts_with("False") {
        return Err("it is stored column by column: save numpy.ascontiguousarray of it".into());
    }
    let shape = after("'shape'")
        .and_then(|rest| rest.strip_prefix('('))
        .ok_or_else(odd)?;
    let (shape, _) = shape.split_once(')').ok_or_else(odd)?;
    let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let shape: Result<Vec<usize>, _> = dims.map(str::parse).collect();
    Ok((dtype, shape.map_err(|_| odd())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let parsed = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n").unwrap();
        assert_eq!(parsed, (Dtype::F32, vec![2, 3]));
        assert_eq!(
            parse("{'shape': (), 'descr':'|b1','fortran_order': False}").unwrap(),
            (Dtype::Other, vec![])
        );
        assert!(
            parse("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }")
                .unwrap_err()
                .contains("column")
        );
        for odd in ["", "{}", "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"] {
            assert!(parse(odd).is_err(), "{odd}");
        }
    }
}
