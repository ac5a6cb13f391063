//! `medley submit --dry-run`: what a spec would get of the present cluster.

use crate::connect::explain;
use crate::console::{Align, Table, percent, print, print_json};
use crate::foreseen::memory;
use anyhow::Result;
use medley_protocol::client::Client;
use medley_protocol::rest::DryRun;
use medley_protocol::staircase::Stair;
use serde_json::Value;
use std::fmt::Write;

/// Asks, and prints the answer.
///
/// # Errors
/// The refusal, with every wrong field on a line of its own.
pub(super) async fn run(client: &Client, document: &Value, json: bool) -> Result<()> {
    let answer: DryRun = client.post("/jobs/dry-run", document).await.map_err(explain)?;
    if json {
        print_json(&answer)
    } else {
        print(&page(&answer))
    }
}

fn page(answer: &DryRun) -> String {
    let mut page = String::new();
    if let Some(present) = &answer.present {
        let places = answer
            .placement
            .iter()
            .map(|placed| format!("{} × {}", placed.node_name, placed.ranks));
        let places = places.collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            page,
            "it would train now on {} on {places}",
            counted(present.ranks, "rank")
        );
        let _ = writeln!(
            page,
            "the busiest rank runs {} of {}: {} times as fast as one rank",
            present.lanes,
            counted(answer.lanes, "lane"),
            speed(present)
        );
    } else {
        let _ = writeln!(page, "it would wait now: {}", answer.reason);
    }
    if let Some(idle) = &answer.idle {
        let _ = writeln!(page, "{idle}");
    }
    if let Some(next) = &answer.next {
        let _ = writeln!(
            page,
            "the next useful number is {}: {} times as fast",
            counted(next.ranks, "rank"),
            speed(next)
        );
    }
    let _ = write!(page, "\n{}", table(answer).plain());
    let memory = memory(&answer.memory);
    if !memory.is_empty() {
        let _ = write!(page, "\n{memory}");
    }
    page
}

fn table(answer: &DryRun) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("ranks", Right),
        ("lanes of the busiest", Right),
        ("speed", Right),
        ("efficiency", Right),
        ("", Left),
    ]);
    for stair in &answer.stairs {
        let is_present = answer.present.is_some_and(|present| present.lanes == stair.lanes);
        table.row([
            stair.ranks.to_string(),
            stair.lanes.to_string(),
            speed(stair),
            percent(stair.efficiency),
            if is_present { "now" } else { "" }.into(),
        ]);
    }
    table
}

fn speed(stair: &Stair) -> String {
    format!("{:.1}", stair.speed)
}

fn counted(number: u32, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_protocol::estimate::Estimate;
    use medley_protocol::ids::NodeId;
    use medley_protocol::rest::Placed;
    use medley_protocol::stage::StageKind;
    use medley_protocol::staircase::{idle, stairs};

    #[test]
    fn the_staircase_is_shown_with_the_present_stair_marked() {
        let placed = |ranks| Placed {
            node: NodeId::generate(),
            node_name: format!("n{ranks}"),
            ranks,
        };
        let mut answer = DryRun {
            lanes: 32,
            devices: 31,
            free: 31,
            placement: vec![placed(10), placed(6)],
            reason: String::new(),
            present: Some(Stair::of(32, 16)),
            next: Some(Stair::of(32, 32)),
            idle: idle(32, 31),
            stairs: stairs(32),
            memory: vec![Estimate {
                stage: StageKind::Pretrain,
                lanes: 2,
                gpu_bytes: 13 << 30,
                gpu_host_bytes: 8 << 30,
                host_bytes: None,
            }],
        };
        let shown = page(&answer);
        for line in [
            "it would train now on 16 ranks on n10 × 10, n6 × 6\n",
            "the busiest rank runs 2 of 32 lanes: 16.0 times as fast as one rank\n",
            "31 devices are no faster than 16 at 32 lanes\n",
            "the next useful number is 32 ranks: 32.0 times as fast\n",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
        let marked: Vec<&str> = shown.lines().filter(|line| line.ends_with("now")).collect();
        assert!(marked.len() == 1 && marked[0].trim_start().starts_with("16"), "{shown}");

        let memory = shown.lines().last().unwrap().split_whitespace().collect::<Vec<&str>>();
        assert_eq!(memory.join(" "), "pretrain 2 13 GiB 8.0 GiB not in bf16", "{shown}");

        (answer.present, answer.next, answer.idle) = (None, None, None);
        answer.reason = "no node is alive".into();
        assert!(page(&answer).starts_with("it would wait now: no node is alive\n\n"));
    }
}
