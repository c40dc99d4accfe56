//! Pages of 2 MiB for a template's memory.
//!
//! A clone copies an entry for each page of its template, and then shares it. Of a program with 60 MB of its own that is
//! 15,000 entries, or thirty. In a clone the kernel divides a large page when the first byte of it is written, which takes
//! 10 us, and then copies the small page alone: never more than without.

use std::ops::Range;

use stratos_restorer::abi::Call;
use stratos_sys::pages::HUGE;

use super::call;
use crate::image::{Mapping, PAGE};

/// Of a large page, how much of it the image must hold: the rest is memory that nobody uses.
const LEAST: u64 = HUGE / 4 * 3;
const MADV_COLLAPSE: u64 = 25;

/// The calls that put what a template has read from its image into large pages, one for each. Any may fail: a kernel before
/// 6.1 has no such call, or no such page is free.
pub(crate) fn pages(mappings: &[Mapping]) -> Vec<Call> {
    let own = mappings.iter().filter(|mapping| mapping.file.is_none());
    let ranges = own.filter_map(|mapping| Some(well_filled(mapping, &within(mapping)?))).flatten();
    ranges.map(|at| call(libc::SYS_madvise, [at, HUGE, MADV_COLLAPSE])).collect()
}

/// The part of a mapping that large pages can be in.
fn within(mapping: &Mapping) -> Option<Range<u64>> {
    let start = mapping.start.checked_next_multiple_of(HUGE)?;
    let end = mapping.end / HUGE * HUGE;
    let huge = mapping.traits.huge_pages != Some(false) && !mapping.traits.droppable;
    (huge && !mapping.pages.is_empty() && start < end).then_some(start..end)
}

/// The large pages of which the image holds enough.
fn well_filled(mapping: &Mapping, range: &Range<u64>) -> Vec<u64> {
    let mut filled: Vec<(u64, u64)> = Vec::new();
    for (first, count) in &mapping.pages {
        let mut at = mapping.start + u64::from(*first) * PAGE;
        let end = at + u64::from(*count) * PAGE;
        while at < end {
            let page = at / HUGE * HUGE;
            let part = end.min(page + HUGE) - at;
            match filled.last_mut() {
                Some((last, bytes)) if *last == page => *bytes += part,
                _ => filled.push((page, part)),
            }
            at += part;
        }
    }
    filled.retain(|(page, bytes)| range.contains(page) && *bytes >= LEAST);
    filled.into_iter().map(|(page, _)| page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Traits;

    fn mapping(start: u64, end: u64, pages: &[(u32, u32)]) -> Mapping {
        let traits = Traits::default();
        Mapping { start, end, protection: 3, file: None, traits, pages: pages.to_vec() }
    }

    fn planned(mapping: &Mapping) -> (Vec<u64>, Option<Range<u64>>) {
        let range = within(mapping);
        (range.as_ref().map(|range| well_filled(mapping, range)).unwrap_or_default(), range)
    }

    #[test]
    fn only_whole_and_well_filled_large_pages_are_asked_for() {
        const MIB: u64 = 1 << 20;
        // From 1 to 9 MiB there are three whole ones.
        let full = mapping(MIB, 9 * MIB, &[(0, 2048)]);
        assert_eq!(planned(&full), (vec![2 * MIB, 4 * MIB, 6 * MIB], Some(2 * MIB..8 * MIB)));
        // The first is half full; in the second a quarter is missing, in two pieces.
        let gaps = mapping(2 * MIB, 8 * MIB, &[(0, 256), (512, 200), (768, 256)]);
        assert_eq!(planned(&gaps).0, [4 * MIB]);
        let small = mapping(MIB, 3 * MIB, &[(0, 512)]);
        assert_eq!(planned(&small), (vec![], None));
        let mut against = full;
        against.traits.huge_pages = Some(false);
        assert_eq!(planned(&against).1, None);
    }

    #[test]
    fn files_are_left_alone() {
        let full = mapping(0, 4 << 20, &[(0, 1024)]);
        let mut of_file = full.clone();
        of_file.file = Some((0, 0));
        let calls = pages(&[of_file, full]);
        assert_eq!(calls.iter().map(|call| call.args[0]).collect::<Vec<_>>(), [0, HUGE]);
    }
}
