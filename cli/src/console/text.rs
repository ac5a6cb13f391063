//! Words for numbers.

use chrono::{DateTime, Local, Utc};
use medley_protocol::text::plain;
use serde::Serialize;

/// Seconds as people say them: `8.4s`, `42s`, `3m 07s`, `1h 02m`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..=9 => format!("{:.1}s", seconds.max(0.0)),
        10..=59 => format!("{whole}s"),
        60..=3599 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole / 60 % 60),
    }
}

/// Seconds from one moment to another; 0 if they are in the wrong order.
pub(crate) fn seconds_between(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    ((to - from).num_milliseconds().max(0)) as f64 / 1000.0
}

/// How long ago something was.
pub(crate) fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ago", duration(seconds_between(at, now)))
}

/// Time of day here.
pub(crate) fn clock(at: DateTime<Utc>) -> String {
    at.with_timezone(&Local).format("%H:%M:%S").to_string()
}

/// A share as a percentage with one decimal.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A whole number in groups of three digits.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A size in bytes as people say it: `980 KiB`, `1.2 GiB`.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut unit) = (value as f64, 0);
    // What would be rounded to 1024 is 1 of the next unit.
    while amount >= 1023.5 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && amount < 9.95);
    format!("{amount:.decimals$} {}", UNITS[unit])
}

/// A text that others wrote, as a terminal shows it and does not obey it: controls are written out, but the ends of lines.
pub(crate) fn shown(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| plain(line, usize::MAX)).collect();
    lines.join("\n")
}

/// The name that a kind or state has in JSON.
pub(crate) fn wire_name<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::stage::StageState;

    #[test]
    fn durations_keep_two_units() {
        let said: Vec<String> = [0.0, 8.44, 42.0, 187.0, 3725.0].into_iter().map(duration).collect();
        assert_eq!(said, ["0.0s", "8.4s", "42s", "3m 07s", "1h 02m"]);
    }

    #[test]
    fn numbers_are_grouped_from_the_right() {
        assert_eq!([7, 1500, 1_234_567].map(number), ["7", "1,500", "1,234,567"]);
    }

    #[test]
    fn sizes_keep_two_or_three_digits() {
        let said = [0, 1023, 1024, 10 << 10, (1 << 20) - 1, 300 << 20, 5 << 28].map(bytes);
        assert_eq!(
            said,
            ["0 B", "1023 B", "1.0 KiB", "10 KiB", "1.0 MiB", "300 MiB", "1.2 GiB"]
        );
    }

    #[test]
    fn states_are_named_as_in_json() {
        assert_eq!(wire_name(&StageState::Waiting), "waiting");
    }
}
