//! Which GPUs of a machine are the node's: those that `--gpus` names, of those that `CUDA_VISIBLE_DEVICES` leaves.

use medley_protocol::hardware::Gpu;
use std::str::FromStr;

/// How a GPU is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// By its number, as `nvidia-smi` lists them.
    Number(usize),
    /// By its UUID, or how it begins.
    Uuid(String),
}

impl FromStr for Pick {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.parse() {
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if text.starts_with("GPU-") => Ok(Self::Uuid(text.to_owned())),
            Err(_) => Err(format!(
                "{text:?} names no GPU: give its number as nvidia-smi lists them, or its UUID, which begins with GPU-"
            )),
        }
    }
}

/// The node's GPUs, in the order in which ranks are dealt to them: those of `picks`, or all. `visible` is the value of
/// `CUDA_VISIBLE_DEVICES`, which is obeyed; its numbers are taken for those of `nvidia-smi`.
///
/// # Errors
/// What does not fit, and what to do.
pub fn choose(found: &[Gpu], visible: Option<&str>, picks: &[Pick]) -> Result<Vec<Gpu>, String> {
    let allowed = match visible {
        Some(list) => seen(found, list)?,
        None => (0..found.len()).collect(),
    };
    let mut chosen: Vec<usize> = Vec::new();
    for pick in picks {
        let number = named(found, pick).map_err(|reason| format!("--gpus: {reason}"))?;
        if !allowed.contains(&number) {
            return Err(format!(
                "--gpus: CUDA_VISIBLE_DEVICES leaves GPU {number} out; unset that variable, or pick others"
            ));
        }
        if chosen.contains(&number) {
            return Err(format!(
                "--gpus: GPU {number} is named twice; --ranks-per-gpu puts several ranks on each"
            ));
        }
        chosen.push(number);
    }
    if picks.is_empty() {
        chosen = allowed;
    }
    let chosen: Vec<Gpu> = chosen.into_iter().map(|number| found[number].clone()).collect();
    if let Some(other) = chosen.iter().find(|gpu| gpu.name != chosen[0].name) {
        return Err(format!(
            "a node has GPUs of one model, and these are {} and {}: pick those of one with --gpus, and start an agent of \
             another --name for each other model",
            chosen[0].name, other.name
        ));
    }
    Ok(chosen)
}

/// Numbers of the GPUs that a value of `CUDA_VISIBLE_DEVICES` leaves. As CUDA has it, what follows a negative number counts no
/// more.
fn seen(found: &[Gpu], list: &str) -> Result<Vec<usize>, String> {
    let mut seen = Vec::new();
    for name in list.split(',').map(str::trim).take_while(|name| !is_end(name)) {
        let number = name.parse::<Pick>().and_then(|pick| named(found, &pick));
        let number = number.map_err(|reason| format!("CUDA_VISIBLE_DEVICES: {reason}"))?;
        if !seen.contains(&number) {
            seen.push(number);
        }
    }
    Ok(seen)
}

fn is_end(name: &str) -> bool {
    name.is_empty() || name.starts_with('-') || name == "NoDevFiles"
}

/// The number of the GPU that is meant.
fn named(found: &[Gpu], pick: &Pick) -> Result<usize, String> {
    match pick {
        Pick::Number(number) if *number < found.len() => Ok(*number),
        Pick::Number(number) => Err(format!("there is no GPU {number}: this machine has {}", found.len())),
        Pick::Uuid(uuid) => {
            let mut meant = (0..found.len()).filter(|number| found[*number].uuid.starts_with(uuid.as_str()));
            match (meant.next(), meant.next()) {
                (Some(number), None) => Ok(number),
                (None, _) => Err(format!("there is no GPU {uuid} on this machine")),
                (Some(_), Some(_)) => Err(format!("{uuid} may be one of several GPUs: write more of it")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(names: &[&str]) -> Vec<Gpu> {
        let gpu = |(number, name): (usize, &&str)| Gpu {
            uuid: format!("GPU-a{number}"),
            name: (*name).into(),
            ..Gpu::default()
        };
        names.iter().enumerate().map(gpu).collect()
    }

    fn chosen(visible: Option<&str>, picks: &[&str]) -> Result<Vec<String>, String> {
        let picks: Vec<Pick> = picks.iter().map(|pick| pick.parse().unwrap()).collect();
        let chosen = choose(&gpus(&["H200"; 4]), visible, &picks)?;
        Ok(chosen.into_iter().map(|gpu| gpu.uuid).collect())
    }

    #[test]
    fn all_are_taken_where_nothing_is_said() {
        assert_eq!(chosen(None, &[]).unwrap(), ["GPU-a0", "GPU-a1", "GPU-a2", "GPU-a3"]);
        assert_eq!(choose(&[], None, &[]), Ok(Vec::new()));
    }

    #[test]
    fn numbers_and_uuids_pick_in_the_order_in_which_they_are_given() {
        assert_eq!(chosen(None, &["2", "GPU-a0"]).unwrap(), ["GPU-a2", "GPU-a0"]);
        for (pick, reason) in [("4", "has 4"), ("GPU-b", "no GPU GPU-b"), ("GPU-a", "write more")] {
            let error = chosen(None, &[pick]).unwrap_err();
            assert!(error.contains("--gpus") && error.contains(reason), "{error}");
        }
        let error = chosen(None, &["1", "GPU-a1"]).unwrap_err();
        assert!(error.contains("--ranks-per-gpu"), "{error}");
        assert!("zero".parse::<Pick>().unwrap_err().contains("nvidia-smi"));
    }

    #[test]
    fn what_cuda_does_not_see_is_not_taken() {
        assert_eq!(chosen(Some("3, GPU-a1,3"), &[]).unwrap(), ["GPU-a3", "GPU-a1"]);
        for none in ["", "-1", "NoDevFiles", "-1,2"] {
            assert_eq!(chosen(Some(none), &[]).unwrap(), Vec::<String>::new(), "{none}");
        }
        assert_eq!(chosen(Some("1,-1,2"), &[]).unwrap(), ["GPU-a1"]);
        assert_eq!(chosen(Some("1,2"), &["2"]).unwrap(), ["GPU-a2"]);
        let error = chosen(Some("1,2"), &["0"]).unwrap_err();
        assert!(error.contains("CUDA_VISIBLE_DEVICES leaves GPU 0 out"), "{error}");
        for wrong in ["7", "MIG-x"] {
            let error = chosen(Some(wrong), &[]).unwrap_err();
            assert!(error.starts_with("CUDA_VISIBLE_DEVICES: "), "{error}");
        }
    }

    #[test]
    fn gpus_of_two_models_take_two_agents() {
        let found = gpus(&["H100", "H200", "H200"]);
        let error = choose(&found, None, &[]).unwrap_err();
        assert!(error.contains("H100 and H200") && error.contains("--gpus"), "{error}");
        assert_eq!(
            choose(&found, None, &[Pick::Number(1), Pick::Number(2)]),
            Ok(found[1..].to_vec())
        );
    }
}
