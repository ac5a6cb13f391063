//! From a completed document to a typed [`Spec`]: whatever cannot be read is told, not only the first of it.

use super::{Problem, Spec};
use crate::text::plain;
use serde_json::{Value, json};
use serde_path_to_error::{Path, Segment};

/// Most characters of a value that a message repeats.
const SHOWN: usize = 60;

/// Longest message about what is of the wrong type.
const MAX_MESSAGE: usize = 500;

/// How fields are written that have more than one form.
const FORMS: [(&str, &str); 4] = [
    (
        "length",
        "{ by = \"steps\", count = 500 } or { by = \"epochs\", count = 20 }",
    ),
    (
        "decay",
        "{ by = \"cosine-step\" }, { by = \"cosine-epoch\" } or { by = \"epoch\", factor = 0.85 }",
    ),
    (
        "augment",
        "{ by = \"none\" } or { by = \"reference\", min_crop = 0.5 }, where auto_contrast, enhance, flip and translate can be \
         \"reference\" or \"fixed\"",
    ),
    ("on_loss", "\"go-on\" or { wait_s = 20 }"),
];

/// How this field is written, if it has more than one form.
pub(super) fn form(field: &str) -> Option<&'static str> {
    FORMS.iter().find(|(name, _)| *name == field).map(|(_, form)| *form)
}

/// Reads a completed document. A value that is none is reported, and what `base` has there is read in its place; `base` is a
/// preset's document, and has every field that `merged` has.
///
/// # Errors
/// A problem with the whole document.
pub(super) fn read(mut merged: Value, base: &Value, problems: &mut Vec<Problem>) -> Result<Spec, Problem> {
    loop {
        let error = match serde_path_to_error::deserialize(&merged) {
            Ok(spec) => return Ok(spec),
            Err(error) => error,
        };
        let keys = place(error.path(), base);
        let (Some(given), Some(default)) = (at(&mut merged, &keys), at_ref(base, &keys)) else {
            return Err(problem("", error.inner().to_string()));
        };
        // The preset's own value can be read, or nothing would be gained by trying again.
        if given == default {
            return Err(problem(&keys.join("."), error.inner().to_string()));
        }
        let path = keys.join(".");
        if !problems.iter().any(|known| known.path == path) {
            let message = format!("is {}: use {}", shown(given), wanted(&keys, given, base));
            problems.push(problem(&path, message));
        }
        *given = default.clone();
    }
}

fn problem(path: &str, message: String) -> Problem {
    Problem {
        path: path.to_owned(),
        message: plain(&message, MAX_MESSAGE),
    }
}

/// Names of the tables, and of the field in the last one, that hold what could not be read.
fn place(path: &Path, base: &Value) -> Vec<String> {
    let (mut keys, mut known) = (Vec::new(), base);
    for segment in path {
        let Segment::Map { key } = segment else { break };
        // A tagged choice is written anew as a whole.
        if known.get("by").is_some() {
            break;
        }
        let Some(inner) = known.get(key) else { break };
        known = inner;
        keys.push(key.clone());
    }
    keys
}

fn at<'a>(document: &'a mut Value, keys: &[String]) -> Option<&'a mut Value> {
    keys.iter().try_fold(document, |value, key| value.get_mut(key))
}

fn at_ref<'a>(document: &'a Value, keys: &[String]) -> Option<&'a Value> {
    keys.iter().try_fold(document, |value, key| value.get(key))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What a field wants, in words; `base` has a value of its type.
fn wanted(keys: &[String], given: &Value, base: &Value) -> String {
    if let Some(form) = keys.last().and_then(|field| form(field)) {
        return form.into();
    }
    let quoted = |is_meant: bool| if is_meant { ", without quotes" } else { "" };
    let text = given.as_str().unwrap_or_default();
    match at_ref(base, keys) {
        Some(Value::Object(_)) => "a table of fields".into(),
        Some(Value::Array(_)) => "a list of texts".into(),
        Some(Value::Bool(_)) => format!("true or false{}", quoted(text.parse::<bool>().is_ok())),
        Some(Value::Number(number)) if number.is_f64() => {
            format!("a number{}", quoted(text.parse::<f64>().is_ok()))
        }
        Some(Value::Number(_)) => match given.as_f64() {
            Some(number) if number < 0.0 && number.fract() == 0.0 => "a whole number that is not negative".into(),
            Some(number) if number.fract() == 0.0 && !given.is_f64() => "a smaller number".into(),
            Some(number) if number.fract() == 0.0 => "a whole number, without point and exponent".into(),
            _ => format!("a whole number{}", quoted(text.parse::<i64>().is_ok())),
        },
        _ => match &choices(keys, base)[..] {
            [] => "a text in quotes".into(),
            names => format!("one of {}", names.join(", ")),
        },
    }
}

/// The names that a field can be one of; empty if it takes any text.
fn choices(keys: &[String], base: &Value) -> Vec<String> {
    let mut asked = base.clone();
    if let Some(value) = at(&mut asked, keys) {
        *value = json!("?");
    }
    let Err(error) = serde_path_to_error::deserialize::<_, Spec>(&asked) else {
        return Vec::new();
    };
    // "unknown variant `?`, expected one of `a`, `b`"
    let message = error.inner().to_string();
    message.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use crate::spec::Spec;
    use serde_json::{Value, json};

    /// What is said of the fields of a document, by path.
    fn said(change: &Value) -> Vec<(String, String)> {
        let mut document = json!({"name": "j", "kind": "bootstrap", "preset": "tiny", "data": {"root": "/d"}});
        for (name, value) in change.as_object().into_iter().flatten() {
            document[name] = value.clone();
        }
        let problems = Spec::from_document(&document).unwrap_err();
        problems.0.into_iter().map(|p| (p.path, p.message)).collect()
    }

    #[test]
    fn all_values_that_cannot_be_read_are_told_with_unknown_fields_and_wrong_values() {
        let found = said(&json!({
            "pretrain": {"peak_lr": "0.1", "length": {"by": "step", "count": 1.5}, "lr": 1, "beta1": 7.0},
            "lanes": {"count": 1.5},
            "seed": "x",
        }));
        let mut paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        paths.sort_unstable();
        let expected = [
            "lanes.count",
            "pretrain.beta1",
            "pretrain.length",
            "pretrain.lr",
            "pretrain.peak_lr",
            "seed",
        ];
        assert_eq!(paths, expected, "{found:?}");
    }

    #[test]
    fn what_a_field_wants_is_said_in_plain_words() {
        for (change, path, words) in [
            (
                json!({"pretrain": {"peak_lr": "0.1"}}),
                "pretrain.peak_lr",
                "is \"0.1\": use a number, without quotes",
            ),
            (
                json!({"lanes": {"count": 1.5}}),
                "lanes.count",
                "is 1.5: use a whole number",
            ),
            (
                json!({"lanes": {"count": -1}}),
                "lanes.count",
                "is -1: use a whole number that is not negative",
            ),
            (
                json!({"lanes": {"count": 1_u64 << 40}}),
                "lanes.count",
                "is 1099511627776: use a smaller number",
            ),
            (
                json!({"lanes": {"count": 8.0}}),
                "lanes.count",
                "is 8.0: use a whole number, without point and exponent",
            ),
            (
                json!({"ledger": "true"}),
                "ledger",
                "is \"true\": use true or false, without quotes",
            ),
            (json!({"name": 3}), "name", "is 3: use a text in quotes"),
            (
                json!({"kind": "train"}),
                "kind",
                "is \"train\": use one of pretrain, bootstrap",
            ),
            (
                json!({"pretrain": {"precision": 16}}),
                "pretrain.precision",
                "is 16: use one of fp32, bf16",
            ),
            (
                json!({"start": {"initial": "/w"}}),
                "start.initial",
                "is \"/w\": use a list of texts",
            ),
            (json!({"data": "/d"}), "data", "is \"/d\": use a table of fields"),
            (
                json!({"cluster": {"on_loss": "wait"}}),
                "cluster.on_loss",
                "is \"wait\": use \"go-on\" or { wait_s = 20 }",
            ),
            (
                json!({"filter": {"length": {"by": "step"}}}),
                "filter.length",
                "is {\"by\":\"step\"}: use { by = \"steps\", count = 500 } or { by = \"epochs\", count = 20 }",
            ),
        ] {
            assert_eq!(said(&change), [(path.to_owned(), words.to_owned())]);
        }
    }

    #[test]
    fn a_long_value_is_cut() {
        let found = said(&json!({"lanes": {"count": "ü".repeat(4000)}}));
        assert!(found[0].1.chars().count() < 100, "{found:?}");
    }
}
