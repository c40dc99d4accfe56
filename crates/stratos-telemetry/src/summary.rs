//! Invocations by function and minute.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stratos_api::InvocationRecord;
use stratos_api::telemetry::{FunctionTelemetry, OTHER, Percentiles, Summary};

use crate::ended::is_timeout;
use crate::histogram::Histogram;

/// Minutes that are kept, while there is room.
pub(crate) const MOST_MINUTES: u64 = 24 * 60;

/// One function's invocations that ended within one minute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minute {
    /// Which, in minutes since 1970.
    pub minute: u64,
    invocations: u64,
    errors: u64,
    timeouts: u64,
    cold: u64,
    restored: u64,
    cpu_us: u64,
    memory_peak_kb: u64,
    duration: Histogram,
    start: Histogram,
    /// It is in a file: what comes now goes into another.
    #[serde(skip)]
    stored: bool,
}

impl Minute {
    fn new(minute: u64) -> Self {
        Self { minute, ..Self::default() }
    }

    fn add(&mut self, record: &InvocationRecord) {
        let p = &record.phases;
        self.invocations += 1;
        self.errors += u64::from(record.outcome != "ok");
        self.timeouts += u64::from(is_timeout(record));
        self.cold += u64::from(record.cold && !record.restored);
        self.restored += u64::from(record.cold && record.restored);
        self.cpu_us = self.cpu_us.saturating_add(record.cpu_us.unwrap_or(0));
        self.memory_peak_kb = self.memory_peak_kb.max(record.memory_peak_kb.unwrap_or(0));
        self.duration.add(duration_us(record));
        if record.cold {
            self.start.add(p.sandbox_us + p.runtime_us + p.init_us);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.invocations += other.invocations;
        self.errors += other.errors;
        self.timeouts += other.timeouts;
        self.cold += other.cold;
        self.restored += other.restored;
        self.cpu_us = self.cpu_us.saturating_add(other.cpu_us);
        self.memory_peak_kb = self.memory_peak_kb.max(other.memory_peak_kb);
        self.duration.merge(&other.duration);
        self.start.merge(&other.start);
    }

    fn bytes(&self) -> usize {
        // Besides itself the counters of the shared pointer, and its place in the row, of which some are free.
        size_of::<Self>() + 32 + self.duration.heap_bytes() + self.start.heap_bytes()
    }

    /// Whether it can be one of this version's.
    pub(crate) fn is_sound(&self) -> bool {
        let histograms = self.duration.is_sound() && self.start.is_sound();
        // What is larger than it can be would overflow when it is added up.
        let parts = [self.errors, self.timeouts, self.cold, self.restored];
        histograms && self.duration.len() == self.invocations && parts.iter().all(|n| *n <= self.invocations)
    }

    fn summary(&self, at: String) -> Summary {
        Summary {
            at,
            invocations: self.invocations,
            errors: self.errors,
            timeouts: self.timeouts,
            cold: self.cold,
            restored: self.restored,
            duration: percentiles(&self.duration),
            start: percentiles(&self.start),
            cpu_us: self.cpu_us,
            memory_peak_kb: self.memory_peak_kb,
        }
    }
}

/// How long an invocation took for all but a slow client: from the whole request being there.
pub(crate) fn duration_us(record: &InvocationRecord) -> u64 {
    record.phases.total_us.saturating_sub(record.phases.receive_us)
}

fn percentiles(histogram: &Histogram) -> Option<Percentiles> {
    let of = |share| histogram.quantile(share);
    let all = || Percentiles { p50_us: of(0.5), p95_us: of(0.95), p99_us: of(0.99), max_us: histogram.max() };
    (!histogram.is_empty()).then(all)
}

/// A minute as it stands in a file.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredMinute {
    pub(crate) function: String,
    #[serde(flatten)]
    pub(crate) minute: Minute,
}

impl StoredMinute {
    /// What stands in the file.
    pub fn frame(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Some of a function's minutes, oldest first; several may be of the same.
#[derive(Debug)]
pub struct FunctionMinutes {
    function: String,
    first: u64,
    minutes: Vec<Arc<Minute>>,
}

impl FunctionMinutes {
    /// Adds up, and finds the percentiles. `at` writes a time, given in ms since 1970.
    pub fn told(&self, at: impl Fn(u64) -> String) -> FunctionTelemetry {
        let at = |minute: u64| at(minute * 60_000);
        let same = self.minutes.chunk_by(|a, b| a.minute == b.minute);
        let mut total = Minute::default();
        let minutes = same.map(|parts| {
            let mut sum = Minute::new(parts[0].minute);
            parts.iter().for_each(|part| sum.merge(part));
            total.merge(&sum);
            sum.summary(at(sum.minute))
        });
        let minutes = minutes.collect();
        FunctionTelemetry { function: self.function.clone(), minutes, total: total.summary(at(self.first)) }
    }
}

/// All functions' minutes, within a limit of memory.
#[derive(Debug)]
pub struct Summaries {
    /// Shared with those who add them up.
    rows: BTreeMap<String, VecDeque<Arc<Minute>>>,
    most_rows: usize,
    most_bytes: usize,
    bytes: usize,
    folded: u64,
    /// The minute in which old ones were looked for last, since nobody found a row.
    looked: u64,
    /// The latest minute that there is.
    latest: u64,
}

/// What a row takes besides its minutes, estimated: the name, its place in the map, room that the queue holds ready.
const ROW_BYTES: usize = 160;

impl Summaries {
    /// Room for so many functions, and so many bytes.
    pub fn new(most_rows: usize, most_bytes: usize) -> Self {
        Self { rows: BTreeMap::new(), most_rows, most_bytes, bytes: 0, folded: 0, looked: 0, latest: 0 }
    }

    /// Counts an invocation that ended in this minute.
    pub fn add(&mut self, record: &InvocationRecord, minute: u64) {
        if self.latest > minute + 1 {
            self.set_back(minute);
        }
        self.latest = self.latest.max(minute);
        let row = self.row(&record.function, minute);
        let before = row.back().map_or(0, |last| last.bytes());
        match row.back_mut().filter(|last| !last.stored && last.minute >= minute) {
            Some(last) => {
                let last = Arc::make_mut(last);
                last.add(record);
                let after = last.bytes();
                self.bytes = self.bytes - before + after;
            }
            None => {
                // A clock that was set back a little does not bring minutes out of order.
                let mut new = Minute::new(row.back().map_or(0, |last| last.minute).max(minute));
                new.add(record);
                let closed = row.back_mut().map_or(0, |last| {
                    let last = Arc::make_mut(last);
                    last.duration.shrink();
                    last.start.shrink();
                    last.bytes()
                });
                let after = new.bytes();
                row.push_back(Arc::new(new));
                self.bytes = self.bytes - before + closed + after;
                self.make_room(minute);
            }
        }
    }

    /// The clock was set back to this minute: what lies in the future has happened already, so it ends here.
    fn set_back(&mut self, now: u64) {
        for minute in self.rows.values_mut().flatten().filter(|minute| minute.minute > now) {
            Arc::make_mut(minute).minute = now;
        }
        self.latest = now;
    }

    /// The row of a function, or the one that all share who find no place.
    fn row(&mut self, function: &str, minute: u64) -> &mut VecDeque<Arc<Minute>> {
        let mut name = function;
        if !self.rows.contains_key(function) {
            if self.is_full() && self.looked != minute {
                self.looked = minute;
                self.expire(minute);
            }
            if self.is_full() {
                self.folded += 1;
                name = OTHER;
            }
        }
        let bytes = &mut self.bytes;
        self.rows.entry(name.to_owned()).or_insert_with(|| {
            *bytes += ROW_BYTES;
            VecDeque::new()
        })
    }

    fn is_full(&self) -> bool {
        self.rows.len() - usize::from(self.rows.contains_key(OTHER)) >= self.most_rows
    }

    /// Drops what is too old, and rows that are empty then.
    fn expire(&mut self, now: u64) {
        self.drop_before((now + 1).saturating_sub(MOST_MINUTES));
    }

    fn drop_before(&mut self, minute: u64) {
        let mut freed = 0;
        self.rows.retain(|_, row| {
            while let Some(oldest) = row.pop_front_if(|oldest| oldest.minute < minute) {
                freed += oldest.bytes();
            }
            freed += if row.is_empty() { ROW_BYTES } else { 0 };
            !row.is_empty()
        });
        self.bytes -= freed;
    }

    /// The oldest minutes of all functions go first.
    fn make_room(&mut self, now: u64) {
        self.expire(now);
        while self.bytes > self.most_bytes {
            let oldest = self.rows.values().filter_map(|row| Some(row.front()?.minute)).min();
            match oldest.filter(|oldest| *oldest < now) {
                Some(oldest) => self.drop_before(oldest + 1),
                None => return,
            }
        }
    }

    /// Puts a minute back that was in a file. They come in the order in which they were stored.
    pub(crate) fn restore(&mut self, stored: StoredMinute, now: u64) {
        let StoredMinute { function, mut minute } = stored;
        if minute.minute > now || minute.minute + MOST_MINUTES <= now || !minute.is_sound() {
            return;
        }
        minute.stored = true;
        self.latest = self.latest.max(minute.minute);
        self.bytes += minute.bytes();
        let row = self.row(&function, now);
        row.push_back(Arc::new(minute));
        self.make_room(now);
    }

    /// What is not in a file yet of the minutes before this one; it is taken for stored from now on.
    pub(crate) fn unstored(&mut self, before: u64) -> Vec<StoredMinute> {
        let mut unstored = Vec::new();
        for (function, row) in &mut self.rows {
            for minute in row.iter_mut().filter(|minute| !minute.stored && minute.minute < before) {
                let minute = Arc::make_mut(minute);
                minute.stored = true;
                unstored.push(StoredMinute { function: function.clone(), minute: minute.clone() });
            }
        }
        unstored
    }

    /// These are in no file after all. One that is like another in all may stand for it.
    pub(crate) fn not_stored(&mut self, minutes: &[StoredMinute]) {
        for StoredMinute { function, minute } in minutes {
            let row = self.rows.get_mut(function);
            if let Some(same) = row.and_then(|row| row.iter_mut().rev().find(|same| ***same == *minute)) {
                Arc::make_mut(same).stored = false;
            }
        }
    }

    /// Forgets a function that was removed.
    pub fn forget(&mut self, function: &str) {
        if let Some(row) = self.rows.remove(function) {
            self.bytes -= ROW_BYTES + row.iter().map(|minute| minute.bytes()).sum::<usize>();
        }
    }

    /// Forgets functions that are not there any more; what was counted together stays.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        let gone: Vec<_> =
            self.rows.keys().filter(|name| *name != OTHER && !is_there(name)).cloned().collect();
        gone.iter().for_each(|name| self.forget(name));
    }

    /// The last `range` minutes up to `now`, the running one among them, of each function that has some.
    pub fn minutes(&self, range: u64, now: u64) -> Vec<FunctionMinutes> {
        let first = (now + 1).saturating_sub(range);
        let of = |(function, row): (&String, &VecDeque<Arc<Minute>>)| {
            let minutes: Vec<_> = row.iter().filter(|minute| minute.minute >= first).cloned().collect();
            (!minutes.is_empty()).then(|| FunctionMinutes { function: function.clone(), first, minutes })
        };
        self.rows.iter().filter_map(of).collect()
    }

    /// Invocations that were counted under [`OTHER`].
    pub fn folded(&self) -> u64 {
        self.folded
    }

    /// Memory that it takes, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::tests::ended;

    fn add(summaries: &mut Summaries, function: &str, us: u64, outcome: &str, minute: u64) {
        summaries.add(&ended(function, us, outcome).record, minute);
    }

    fn functions(summaries: &Summaries, range: u64, now: u64) -> Vec<FunctionTelemetry> {
        let told = |function: &FunctionMinutes| function.told(|ms| (ms / 60_000).to_string());
        summaries.minutes(range, now).iter().map(told).collect()
    }

    /// Function, its minutes with their invocations, and all of these.
    type Counts = Vec<(String, Vec<(String, u64)>, u64)>;

    fn counts(summaries: &Summaries, range: u64, now: u64) -> Counts {
        let functions = functions(summaries, range, now);
        let minutes =
            |f: &FunctionTelemetry| f.minutes.iter().map(|m| (m.at.clone(), m.invocations)).collect();
        functions.iter().map(|f| (f.function.clone(), minutes(f), f.total.invocations)).collect()
    }

    #[test]
    fn invocations_are_counted_by_function_and_minute() {
        let mut summaries = Summaries::new(10, 1 << 20);
        for us in [1000, 2000, 3000] {
            add(&mut summaries, "a", us, "ok", 100);
        }
        add(&mut summaries, "a", 9000, "function_timeout", 102);
        add(&mut summaries, "b", 10, "function_error", 102);
        let mut started = ended("b", 10, "ok").record;
        (started.cold, started.restored, started.phases.sandbox_us) = (true, true, 4000);
        summaries.add(&started, 102);
        let all = functions(&summaries, 3, 102);
        let a = &all[0];
        assert_eq!((a.minutes[0].at.as_str(), a.minutes[0].invocations, a.minutes.len()), ("100", 3, 2));
        assert_eq!((a.minutes[1].errors, a.minutes[1].timeouts, a.total.invocations), (1, 1, 4));
        let p = a.total.duration.unwrap();
        assert!((2000..2063).contains(&p.p50_us) && p.p99_us == 9000 && p.max_us == 9000, "{p:?}");
        assert_eq!((a.total.cpu_us, a.total.memory_peak_kb, a.total.start), (7500, 40_000, None));
        let b = &all[1].total;
        assert_eq!((b.errors, b.timeouts, b.cold, b.restored), (1, 0, 0, 1));
        assert_eq!(b.start.unwrap().max_us, 4000);
        assert_eq!(counts(&summaries, 1, 103), []);
    }

    #[test]
    fn what_finds_no_row_is_counted_together() {
        let mut summaries = Summaries::new(3, 1 << 20);
        for i in 0..10_000 {
            add(&mut summaries, &format!("f{i}"), 5, "ok", 7);
        }
        let all = counts(&summaries, 1, 7);
        assert_eq!(all.len(), 4);
        assert_eq!((all[0].0.as_str(), all[0].2, summaries.folded()), (OTHER, 9997, 9997));
        // A row is free again when its function is removed, or was not called for a day.
        summaries.forget("f0");
        add(&mut summaries, "new", 5, "ok", 7);
        assert_eq!(counts(&summaries, 1, 7).iter().filter(|(name, ..)| name == "new").count(), 1);
        add(&mut summaries, "later", 5, "ok", 7 + MOST_MINUTES);
        assert_eq!(counts(&summaries, MOST_MINUTES, 7 + MOST_MINUTES).len(), 1);
        assert_eq!(summaries.folded(), 9997);
    }

    #[test]
    fn the_oldest_minutes_make_room() {
        let limit = 64 << 10;
        let mut summaries = Summaries::new(10, limit);
        for minute in 0..5000 {
            for us in 0..20 {
                add(&mut summaries, "a", us * us * 50, "ok", minute);
                assert!(summaries.bytes() <= limit + 1024, "{}", summaries.bytes());
            }
        }
        let kept = &counts(&summaries, MOST_MINUTES, 4999)[0].1;
        assert!(kept.len() > 50 && kept.last().unwrap().0 == "4999", "{}", kept.len());
        let actual: usize =
            summaries.rows.values().flatten().map(|minute| minute.bytes()).sum::<usize>() + ROW_BYTES;
        assert_eq!(summaries.bytes(), actual);
        summaries.forget("a");
        assert_eq!(summaries.bytes(), 0);
    }

    #[test]
    fn a_clock_set_back_keeps_the_order() {
        let mut summaries = Summaries::new(10, 1 << 20);
        for minute in [50, 51, 50, 51] {
            add(&mut summaries, "a", 1, "ok", minute);
        }
        assert_eq!(counts(&summaries, 100, 51)[0].1, [("50".into(), 1), ("51".into(), 3)]);
        // Far back: nothing stays in the future, of no function, and minutes go on to be told apart.
        add(&mut summaries, "b", 1, "ok", 51);
        for minute in [20, 21, 22] {
            add(&mut summaries, "a", 1, "ok", minute);
        }
        let all = counts(&summaries, 100, 22);
        assert_eq!(all[0].1, [("20".into(), 5), ("21".into(), 1), ("22".into(), 1)]);
        assert_eq!(all[1].1, [("20".into(), 1)]);
        let bytes = summaries.rows.values().flatten().map(|minute| minute.bytes()).sum::<usize>();
        assert_eq!(summaries.bytes(), bytes + 2 * ROW_BYTES);
    }

    #[test]
    fn what_could_not_be_stored_is_tried_again() {
        let mut summaries = Summaries::new(10, 1 << 20);
        for minute in [50, 51] {
            add(&mut summaries, "a", 1, "ok", minute);
        }
        let unstored = summaries.unstored(52);
        summaries.not_stored(&unstored[1..]);
        let again = summaries.unstored(52);
        assert_eq!(again.iter().map(|again| again.minute.minute).collect::<Vec<_>>(), [51]);
        assert!(summaries.unstored(52).is_empty());
    }

    #[test]
    fn what_is_being_added_up_does_not_change() {
        let mut summaries = Summaries::new(10, 1 << 20);
        add(&mut summaries, "a", 1, "ok", 50);
        let minutes = summaries.minutes(5, 50);
        add(&mut summaries, "a", 1, "ok", 50);
        assert_eq!(minutes[0].told(|ms| ms.to_string()).total.invocations, 1);
        assert_eq!(counts(&summaries, 5, 50)[0].2, 2);
    }

    #[test]
    fn stored_minutes_come_back() {
        let mut summaries = Summaries::new(10, 1 << 20);
        for (us, minute) in [(1, 50), (2, 51), (3, 52)] {
            add(&mut summaries, "a", us, "ok", minute);
        }
        let mut stored = summaries.unstored(52);
        assert_eq!(stored.len(), 2);
        assert_eq!(summaries.unstored(52).len(), 0);
        // The rest at the shutdown; then more of the same minute.
        stored.extend(summaries.unstored(u64::MAX));
        add(&mut summaries, "a", 4, "ok", 52);
        stored.extend(summaries.unstored(u64::MAX));
        let text: Vec<String> = stored.iter().map(|minute| serde_json::to_string(minute).unwrap()).collect();
        let mut restored = Summaries::new(10, 1 << 20);
        for line in &text {
            restored.restore(serde_json::from_str(line).unwrap(), 60);
        }
        restored.keep(|name| name == "a");
        assert_eq!(functions(&restored, 60, 60), functions(&summaries, 60, 60));
        assert_eq!(counts(&restored, 60, 60)[0].1.last().unwrap(), &("52".into(), 2));
        restored.keep(|_| false);
        assert_eq!((counts(&restored, 60, 60), restored.bytes()), (vec![], 0));
        // Neither of the future nor too old.
        let mut later = Summaries::new(10, 1 << 20);
        for now in [49, 52 + MOST_MINUTES] {
            text.iter().for_each(|line| later.restore(serde_json::from_str(line).unwrap(), now));
            assert_eq!(counts(&later, MOST_MINUTES, now), []);
        }
    }
}
