//! Standard error as a screen: lines above live bars on a terminal, plain lines elsewhere.

use super::width::stderr_width;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// Bars are redrawn at least this often, so that a spinner turns while nothing is reported.
const REDRAW: Duration = Duration::from_millis(250);
/// Columns from which on there is room for a wide bar beside all that is told.
const WIDE: usize = 120;
/// Columns of a wide bar, and of a narrow one.
const BARS: [usize; 2] = [24, 10];
/// Columns of a bar's name, and of each of its counts; more if they are longer.
const COLUMNS: [usize; 2] = [12, 5];

/// Cheap to clone; all clones draw on the same screen.
#[derive(Debug, Clone)]
pub(crate) struct Screen(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Bars(MultiProgress),
    Lines,
    #[cfg(test)]
    Captured(tokio::sync::mpsc::UnboundedSender<String>),
}

impl Screen {
    /// Standard error.
    pub(crate) fn stderr() -> Self {
        if std::io::stderr().is_terminal() {
            Self(Kind::Bars(MultiProgress::new()))
        } else {
            Self(Kind::Lines)
        }
    }

    /// A screen whose lines a test receives.
    #[cfg(test)]
    pub(crate) fn captured() -> (Self, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let (sender, lines) = tokio::sync::mpsc::unbounded_channel();
        (Self(Kind::Captured(sender)), lines)
    }

    /// Whether bars can be drawn.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.0, Kind::Bars(_))
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.0 {
            // Fails only if the terminal has gone, and then nobody reads it.
            Kind::Bars(bars) => drop(bars.println(text)),
            Kind::Lines => eprintln!("{text}"),
            #[cfg(test)]
            Kind::Captured(sender) => drop(sender.send(text.to_owned())),
        }
    }

    /// A bar below the others; hidden where bars cannot be drawn. `total` is unknown for a spinner.
    pub(crate) fn bar(&self, name: &str, total: Option<u64>) -> ProgressBar {
        let Kind::Bars(bars) = &self.0 else {
            return ProgressBar::hidden();
        };
        let bar = bars.add(ProgressBar::new(total.unwrap_or(0)));
        bar.set_style(style(total.is_some()));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(REDRAW);
        bar
    }

    /// Columns that are left for the message of a bar; none where there are no bars.
    pub(crate) fn room(&self, name: &str, total: Option<u64>) -> Option<usize> {
        let width = stderr_width().filter(|_| self.is_live())?;
        Some(room(width, name, total))
    }

    /// Gives a bar another total.
    pub(crate) fn set_total(bar: &ProgressBar, total: Option<u64>) {
        if bar.length() != Some(total.unwrap_or(0)) {
            bar.set_style(style(total.is_some()));
            bar.set_length(total.unwrap_or(0));
        }
    }
}

/// What a bar of this width leaves of a screen's width for its message.
fn room(width: usize, name: &str, total: Option<u64>) -> usize {
    let [prefix, count] = COLUMNS;
    let name = name.chars().count().max(prefix);
    let counted = total.map_or(1, |total| {
        bar_width(Some(width)) + 2 * total.to_string().len().max(count) + 2
    });
    width.saturating_sub(name + counted + 2)
}

fn bar_width(width: Option<usize>) -> usize {
    let [wide, narrow] = BARS;
    if width.is_none_or(|width| width >= WIDE) {
        wide
    } else {
        narrow
    }
}

fn style(known: bool) -> ProgressStyle {
    let [prefix, count] = COLUMNS;
    let template = if known {
        let bar = bar_width(stderr_width());
        format!("{{prefix:{prefix}}} {{bar:{bar}.cyan/dim}} {{pos:>{count}}}/{{len:<{count}}} {{wide_msg}}")
    } else {
        format!("{{prefix:{prefix}}} {{spinner}} {{wide_msg}}")
    };
    ProgressStyle::with_template(&template)
        .expect("the template is well formed")
        .progress_chars("━━─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_are_well_formed() {
        let _ = (style(true), style(false));
    }

    #[test]
    fn a_narrow_screen_gives_up_width_of_the_bar_first() {
        // name, bar, counts with their slash, and a space after each
        assert_eq!(room(120, "pretrain-0", Some(1000)), 120 - (12 + 1 + 24 + 1 + 11 + 1));
        assert_eq!(room(80, "pretrain-0", Some(1000)), 80 - (12 + 1 + 10 + 1 + 11 + 1));
        assert_eq!(room(80, "pretrain-0", None), 80 - (12 + 1 + 1 + 1));
        assert_eq!(room(9, "pretrain-0", None), 0);
    }
}
