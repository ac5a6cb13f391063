//! The report for people.

use super::FILES;
use super::figures::Report;
use super::filtering::Filtering;
use super::retrieval::{Chance, Difference, Model, Verdict};
use crate::console::{Align, Table, bytes, duration, number, percent, wire_name};
use medley_data::synth::Attribute;
use medley_protocol::tasks::{Interval, Recall};
use std::fmt::Write;

/// The whole report as Markdown.
pub(crate) fn markdown(report: &Report) -> String {
    let mut page = format!(
        "# What the bootstrap brought\n\nJob {} ({}), {} from submission to end.\n\n{}\n",
        report.name,
        report.job,
        duration(report.seconds),
        verdict(report)
    );
    if !report.differences.is_empty() {
        page += &section("Bootstrapped against raw", &differences(&report.differences));
    }
    page += &section(&retrieval_title(report), &retrieval(&report.models, report.chance));
    page += &section("Captions of the held-out images", &captions(&report.models));
    for round in &report.capfilt {
        page += &filtering(round);
    }
    page += &section("What it took", &stages(report));
    page + &places(report)
}

fn section(title: &str, table: &Table) -> String {
    if table.is_empty() {
        return String::new();
    }
    format!("\n## {title}\n\n{}", table.markdown())
}

fn points(interval: &Interval) -> String {
    let points = |share: f64| format!("{:+.1}", share * 100.0);
    format!(
        "{} ({} to {})",
        points(interval.value),
        points(interval.low),
        points(interval.high)
    )
}

/// What may honestly be said.
fn verdict(report: &Report) -> String {
    let count = |verdict| report.differences.iter().filter(|d| d.verdict == verdict).count();
    let all = report.differences.len();
    let (better, worse) = (count(Verdict::Better), count(Verdict::Worse));
    let said = match (better, worse) {
        _ if all == 0 => "Only one model was evaluated; there is nothing to compare.".to_owned(),
        (_, 0) if better == all => {
            "**The bootstrapped model is better in every measure**, beyond the 95 % intervals.".to_owned()
        }
        (0, 0) => "**No clear difference**: every interval of the differences holds 0.".to_owned(),
        (0, _) => format!("**The bootstrapped model is not better**: it is worse in {worse} of {all} measures."),
        _ => format!(
            "**Better in {better} of {all} measures, worse in {worse}, no clear difference in {}.**",
            all - better - worse
        ),
    };
    if report.quick {
        return format!(
            "{said} This was the quick demo: its few steps show that every stage runs, and teach a model next to nothing. \
             The figures say something in the full demo."
        );
    }
    said
}

fn differences(differences: &[Difference]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("measure", Left),
        ("raw", Right),
        ("bootstrapped", Right),
        ("points gained (95 % interval)", Right),
        ("verdict", Left),
    ]);
    for found in differences {
        table.row([
            found.measure.clone(),
            percent(found.raw),
            percent(found.bootstrapped),
            points(&found.gain),
            found.verdict.words().into(),
        ]);
    }
    table
}

fn retrieval_title(report: &Report) -> String {
    format!(
        "Retrieval among {} held-out pairs, with 95 % intervals",
        number(report.test_pairs)
    )
}

fn retrieval(models: &[Model], chance: Option<Chance>) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("model", Left),
        ("query and score", Left),
        ("R@1", Right),
        ("R@5", Right),
        ("R@10", Right),
    ]);
    for model in models {
        let figures = &model.figures;
        for (what, recall) in [
            ("text to image, ITC", &figures.text_to_image_itc),
            ("image to text, ITC", &figures.image_to_text_itc),
            ("text to image, ITM re-ranked", &figures.text_to_image_itm),
            ("image to text, ITM re-ranked", &figures.image_to_text_itm),
        ] {
            let Recall { at_1, at_5, at_10 } = recall;
            let shares = [at_1, at_5, at_10].map(with_interval);
            table.row([model.name.clone(), what.to_owned()].into_iter().chain(shares));
        }
    }
    if let Some(chance) = chance {
        let shares = [chance.at_1, chance.at_5, chance.at_10].map(percent);
        table.row(["chance".to_owned(), "either".to_owned()].into_iter().chain(shares));
    }
    table
}

fn with_interval(interval: &Interval) -> String {
    format!(
        "{} ({:.1}–{:.1})",
        percent(interval.value),
        interval.low * 100.0,
        interval.high * 100.0
    )
}

fn captions(models: &[Model]) -> Table {
    let mut columns = vec![("model", Align::Left), ("all right", Align::Right)];
    columns.extend(Attribute::ALL.iter().map(|a| (a.name(), Align::Right)));
    columns.push(("BLEU-4", Align::Right));
    let mut table = Table::new(&columns);
    for model in models {
        let attribute = |a: &Attribute| percent(model.captions.attributes.get(a.name()).copied().unwrap_or(0.0));
        let mut row = vec![model.name.clone(), percent(model.captions.exact)];
        row.extend(Attribute::ALL.iter().map(attribute));
        row.push(format!("{:.3}", model.figures.bleu_4));
        table.row(row);
    }
    table
}

fn filtering(round: &Filtering) -> String {
    let (web, synthetic) = (&round.web, &round.synthetic);
    let mut text = format!(
        "\n## CapFilt, dataset version {} (kept at a match probability of {} or more)\n\n",
        round.version, round.threshold
    );
    let _ = writeln!(
        text,
        "Web texts: {} kept, {} dropped. Of the kept ones {} are right (precision); of the right ones {} were kept (recall).\n",
        number(web.kept),
        number(web.dropped),
        percent(web.precision),
        percent(web.recall)
    );
    text += &by_noise(round).markdown();
    let _ = write!(
        text,
        "\nSynthetic texts: {} kept, {} dropped. Every attribute right: {} before the filter, {} after it; wrong attributes per \
         text {:.2} before, {:.2} after. The filter kept {} of the exact texts and {} of the others.\n",
        number(synthetic.kept),
        number(synthetic.dropped),
        percent(synthetic.before.exact),
        percent(synthetic.after.exact),
        synthetic.before.wrong_attributes,
        synthetic.after.wrong_attributes,
        percent(synthetic.exact_kept),
        percent(synthetic.inexact_kept)
    );
    text
}

fn by_noise(round: &Filtering) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("web texts that are", Left),
        ("texts", Right),
        ("kept", Right),
        ("share kept", Right),
    ]);
    for kind in &round.web.by_noise {
        table.row([
            wire_name(&kind.noise),
            number(kind.texts),
            number(kind.kept),
            percent(kind.kept as f64 / kind.texts.max(1) as f64),
        ]);
    }
    table
}

fn stages(report: &Report) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("stage", Left),
        ("time", Right),
        ("done", Right),
        ("per second", Right),
        ("ranks", Right),
        ("memory of a rank", Right),
        ("generations", Right),
    ]);
    for stage in &report.stages {
        table.row([
            stage.name.clone(),
            duration(stage.seconds),
            format!("{} {}", number(stage.done), stage.unit),
            format!("{:.1}", stage.per_second),
            stage.ranks.to_string(),
            stage.peak_rank_bytes.map(bytes).unwrap_or_default(),
            stage.generations.to_string(),
        ]);
    }
    table
}

fn places(report: &Report) -> String {
    let places = &report.places;
    let files: Vec<String> = FILES.iter().map(|name| format!("`{name}`")).collect();
    format!(
        "\n## Where it lies\n\n- this report: `{}` ({})\n- checkpoints, overlays and dataset versions: `{}`\n- generated corpus and \
         its truth: `{}`\n- logs: `{}`\n",
        places.report.display(),
        files.join(", "),
        places.store.display(),
        places.data.display(),
        places.logs.display()
    )
}
