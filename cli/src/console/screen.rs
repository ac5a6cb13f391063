//! Standard error as a screen: lines above live bars on a terminal, plain lines elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// Bars are redrawn at least this often, so that a spinner turns while nothing is reported.
const REDRAW: Duration = Duration::from_millis(250);

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

    /// Gives a bar another total.
    pub(crate) fn set_total(bar: &ProgressBar, total: Option<u64>) {
        if bar.length() != Some(total.unwrap_or(0)) {
            bar.set_style(style(total.is_some()));
            bar.set_length(total.unwrap_or(0));
        }
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{prefix:12} {bar:24.cyan/dim} {pos:>5}/{len:<5} {wide_msg}"
    } else {
        "{prefix:12} {spinner} {wide_msg}"
    };
    ProgressStyle::with_template(template)
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
}
