//! The fields of a submitted document before they are read: whether they are known, and their texts.
//!
//! Anyone may submit anything of the size of a body, so what is said of it is short, and found in little time.

use super::Problem;
use super::names::{MAX_NAME, meant};
use super::read::form;
use crate::text::{is_plain, plain};
use serde_json::{Map, Value};

/// Most problems that are reported at once.
pub(super) const MAX_PROBLEMS: usize = 50;
/// Longest text of a spec in bytes: that of a path.
const MAX_TEXT: usize = 4096;

/// Reports each field of `document` that the completed document does not have, with the nearest known name.
pub(super) fn unknown(prefix: &str, document: &Value, known: &Value, problems: &mut Vec<Problem>) {
    let (Value::Object(given), Value::Object(known)) = (document, known) else {
        return;
    };
    // A tagged choice such as `decay` is replaced as a whole; its own reader names what is wrong inside.
    if known.contains_key("by") {
        return;
    }
    for (name, value) in given {
        if problems.len() >= MAX_PROBLEMS {
            return;
        }
        let path = within(prefix, name);
        match known.get(name) {
            Some(inner) => unknown(&path, value, inner, problems),
            None => problems.push(Problem {
                path,
                message: unknown_message(name, known),
            }),
        }
    }
}

/// The path of a field, for people.
fn within(prefix: &str, name: &str) -> String {
    let name = plain(name, MAX_NAME);
    if prefix.is_empty() {
        name
    } else {
        format!("{prefix}.{name}")
    }
}

fn unknown_message(name: &str, known: &Map<String, Value>) -> String {
    if let Some(meant) = meant(name, known) {
        let form = meant.rsplit('.').next().and_then(form);
        let form = form.map_or_else(String::new, |form| format!(" It is written {form}"));
        return format!("unknown field; did you mean `{meant}`?{form}");
    }
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    format!("unknown field; known here: {}", names.join(", "))
}

/// Reports each text that is not one line, or longer than any that is meant: the job table could not store it, or every order
/// would carry it.
pub(super) fn odd_texts(path: &str, value: &Value, problems: &mut Vec<Problem>) {
    if problems.len() >= MAX_PROBLEMS {
        return;
    }
    match value {
        Value::String(text) => {
            let message = if !is_plain(text) {
                "holds a control character: remove it".to_owned()
            } else if text.len() > MAX_TEXT {
                format!("has {} bytes: at most {MAX_TEXT} are possible", text.len())
            } else {
                return;
            };
            let path = path.to_owned();
            problems.push(Problem { path, message });
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(i, item)| odd_texts(&format!("{path}[{i}]"), item, problems));
        }
        Value::Object(fields) => {
            fields
                .iter()
                .for_each(|(name, inner)| odd_texts(&within(path, name), inner, problems));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Problems, Spec};
    use serde_json::json;

    fn minimal() -> Value {
        json!({"name": "j", "kind": "bootstrap", "preset": "tiny", "data": {"root": "/d"}})
    }

    fn problems(document: &Value) -> Problems {
        Spec::from_document(document).unwrap_err()
    }

    #[test]
    fn unknown_fields_are_named_with_their_path_and_a_guess() {
        let mut document = minimal();
        document["pretrain"] = json!({"weight_deacy": 0.1});
        let found = problems(&document);
        assert_eq!(found.0[0].path, "pretrain.weight_deacy");
        assert!(found.0[0].message.contains("`weight_decay`"));
        document["pretrain"] = json!({"steps": 100});
        let found = problems(&document);
        let expected = "did you mean `length`? It is written { by = \"steps\", count = 500 }";
        assert!(found.0[0].message.contains(expected), "{found}");
    }

    #[test]
    fn texts_with_control_characters_or_without_end_are_refused_with_their_paths() {
        let mut document = minimal();
        document["name"] = json!("a\u{1b}[31m");
        document["data"]["root"] = json!("/d\0");
        document["captioner"] = json!({"prompt": "a picture\0of "});
        document["start"] = json!({"initial": ["/w", "/v\n"]});
        document["vocab"] = json!({"file": "/".repeat(MAX_TEXT + 1)});
        let mut odd: Vec<String> = problems(&document).0.into_iter().map(|problem| problem.path).collect();
        odd.sort_unstable();
        let expected = [
            "captioner.prompt",
            "data.root",
            "name",
            "start.initial[1]",
            "vocab.file",
        ];
        assert_eq!(odd, expected);
    }

    #[test]
    fn a_document_of_nonsense_is_refused_in_few_words_and_little_time() {
        let mut document = minimal();
        document["pretrain"] = json!({"weight_decay".repeat(10_000): 0.1});
        let found = problems(&document);
        assert!(!found.0[0].message.contains("did you mean"), "{found}");
        assert!(found.to_string().len() < 2000, "{}", found.to_string().len());
        for i in 0..100_000 {
            document[format!("x{i}\n")] = json!(i);
        }
        let found = problems(&document);
        assert_eq!(found.0.len(), MAX_PROBLEMS);
        assert!(found.0.iter().all(|problem| is_plain(&problem.path)), "{found}");
        let many: Vec<String> = (0..1000).map(|i| format!("{i}\n")).collect();
        document = minimal();
        document["start"] = json!({"initial": many});
        assert_eq!(problems(&document).0.len(), MAX_PROBLEMS);
        document["start"] = json!({"initial": vec!["relative"; 1000]});
        assert!(problems(&document).0.len() < MAX_PROBLEMS);
        for wrong in [
            json!({"preset": "p".repeat(100_000)}),
            json!({"lanes": {"count": "1".repeat(4000)}}),
        ] {
            let mut document = minimal();
            document
                .as_object_mut()
                .unwrap()
                .extend(wrong.as_object().unwrap().clone());
            let found = problems(&document);
            assert!(found.to_string().len() < 1000, "{}", found.to_string().len());
        }
    }
}
