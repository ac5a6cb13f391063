//! How fast a step is on so many ranks. A step takes as long as its busiest rank, which runs ⌈lanes / ranks⌉ lanes; so more ranks
//! are faster only where that number falls, and speed over ranks is a staircase.

use serde::{Deserialize, Serialize};

/// A number of ranks that is faster than any smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stair {
    /// The number of ranks.
    pub ranks: u32,
    /// Lanes of the busiest rank.
    pub lanes: u32,
    /// Steps in the time that one rank takes for one.
    pub speed: f64,
    /// Speed per rank: 1 where no rank waits for another.
    pub efficiency: f64,
}

impl Stair {
    /// What so many ranks give, be they useful or not.
    ///
    /// # Panics
    /// If there is no rank.
    pub fn of(lanes: u32, ranks: u32) -> Self {
        let busiest = lanes.div_ceil(ranks);
        Self {
            ranks,
            lanes: busiest,
            speed: f64::from(lanes) / f64::from(busiest),
            efficiency: f64::from(lanes) / (f64::from(ranks) * f64::from(busiest)),
        }
    }
}

/// All useful numbers of ranks, up to one rank for each lane.
pub fn stairs(lanes: u32) -> Vec<Stair> {
    let mut stairs: Vec<Stair> = Vec::new();
    let mut next = Some(1).filter(|_| lanes > 0);
    while let Some(ranks) = next {
        stairs.push(Stair::of(lanes, ranks));
        next = next_useful(lanes, ranks);
    }
    stairs
}

/// The fewest ranks that are as fast as `ranks`.
///
/// # Panics
/// If there is no rank, or no lane.
pub fn useful(lanes: u32, ranks: u32) -> u32 {
    lanes.div_ceil(lanes.div_ceil(ranks))
}

/// The fewest ranks that are faster than `ranks`; none if every lane has its own.
pub fn next_useful(lanes: u32, ranks: u32) -> Option<u32> {
    let busiest = lanes.div_ceil(ranks);
    (busiest > 1).then(|| lanes.div_ceil(busiest - 1))
}

/// Why devices would stay idle, where they would: they make a step no faster.
pub fn idle(lanes: u32, devices: u32) -> Option<String> {
    let enough = useful(lanes, devices.max(1));
    (devices > enough).then(|| {
        let word = if devices == 1 { "device is" } else { "devices are" };
        format!("{devices} {word} no faster than {enough} at {lanes} lanes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stair_is_faster_than_the_one_before_and_nothing_between_is() {
        for lanes in 1..=64 {
            let stairs = stairs(lanes);
            assert_eq!(
                (stairs[0].ranks, stairs.last().map(|stair| stair.ranks)),
                (1, Some(lanes))
            );
            for pair in stairs.windows(2) {
                assert!(pair[1].speed > pair[0].speed);
                for ranks in pair[0].ranks..pair[1].ranks {
                    assert_eq!(Stair::of(lanes, ranks).lanes, pair[0].lanes);
                    assert_eq!(useful(lanes, ranks), pair[0].ranks);
                }
            }
        }
    }

    #[test]
    fn the_papers_lanes() {
        let ranks: Vec<u32> = stairs(32).iter().map(|stair| stair.ranks).collect();
        assert_eq!(ranks, [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 32]);
        assert_eq!(
            idle(32, 31).as_deref(),
            Some("31 devices are no faster than 16 at 32 lanes")
        );
        assert_eq!((idle(32, 32), idle(32, 16), idle(32, 0)), (None, None, None));
        assert_eq!((next_useful(32, 16), next_useful(32, 32)), (Some(32), None));
        let eleven = Stair::of(32, 11);
        assert_eq!((eleven.lanes, eleven.efficiency), (3, 32.0 / 33.0));
    }
}
