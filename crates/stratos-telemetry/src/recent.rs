//! The last invocations of each function.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::ended::Ended;

/// Invocations that are remembered of each function.
pub(crate) const PER_FUNCTION: usize = 100;

/// The last invocations of each function, within a limit of memory that all share.
#[derive(Debug)]
pub struct Recent {
    /// Newest last, each with its number.
    functions: HashMap<String, VecDeque<(u64, Arc<Ended>)>>,
    /// Numbers in the order of time, with the function; some may be gone already.
    order: VecDeque<(u64, String)>,
    kept: usize,
    next: u64,
    bytes: usize,
    most_bytes: usize,
}

/// What one takes besides itself: places in two queues, and the name in one of them; estimated.
const PLACE_BYTES: usize = 112;

impl Recent {
    /// Room for so many bytes.
    pub fn new(most_bytes: usize) -> Self {
        Self { functions: HashMap::new(), order: VecDeque::new(), kept: 0, next: 0, bytes: 0, most_bytes }
    }

    /// Remembers one more; the oldest make room.
    pub fn add(&mut self, ended: Arc<Ended>) {
        let function = ended.record.function.clone();
        self.bytes += ended.bytes() + PLACE_BYTES;
        self.kept += 1;
        let row = self.functions.entry(function.clone()).or_default();
        row.push_back((self.next, ended));
        if row.len() > PER_FUNCTION {
            self.drop_oldest_of(&function);
        }
        self.order.push_back((self.next, function));
        self.next += 1;
        while self.bytes > self.most_bytes {
            let Some((number, function)) = self.order.pop_front() else { break };
            let oldest = self.functions.get(&function).and_then(|row| row.front());
            if oldest.is_some_and(|(oldest, _)| *oldest == number) {
                self.drop_oldest_of(&function);
            }
        }
        // What is gone is taken off the order now and then, so that this stays as long as there are any kept.
        if self.order.len() > 2 * self.kept + PER_FUNCTION {
            let functions = &self.functions;
            let first = |name: &String| functions.get(name).and_then(|row| Some(row.front()?.0));
            self.order.retain(|(number, function)| first(function).is_some_and(|first| *number >= first));
        }
    }

    fn drop_oldest_of(&mut self, function: &str) {
        let Some(row) = self.functions.get_mut(function) else { return };
        if let Some((_, ended)) = row.pop_front() {
            self.bytes -= ended.bytes() + PLACE_BYTES;
            self.kept -= 1;
        }
        if row.is_empty() {
            self.functions.remove(function);
        }
    }

    /// The last ones of a function, newest first.
    pub fn newest(&self, function: &str) -> impl Iterator<Item = &Arc<Ended>> {
        self.functions.get(function).into_iter().flat_map(|row| row.iter().rev().map(|(_, ended)| ended))
    }

    /// One of them.
    pub fn find(&self, id: &str) -> Option<&Arc<Ended>> {
        self.functions.values().flatten().map(|(_, ended)| ended).find(|ended| ended.record.id == id)
    }

    /// Forgets a function that was removed.
    pub fn forget(&mut self, function: &str) {
        while self.functions.contains_key(function) {
            self.drop_oldest_of(function);
        }
    }

    /// Memory that they take, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::tests::ended;

    #[test]
    fn the_last_hundred_of_each_are_kept() {
        let mut recent = Recent::new(1 << 20);
        for i in 0..250 {
            recent.add(Arc::new(ended("a", i, "ok")));
        }
        recent.add(Arc::new(ended("b", 7, "ok")));
        let newest: Vec<u64> = recent.newest("a").map(|e| e.record.phases.handler_us).collect();
        assert_eq!((newest.len(), newest[0], newest[99]), (100, 249, 150));
        assert_eq!(recent.newest("b").count(), 1);
        let id = recent.newest("a").nth(3).unwrap().record.id.clone();
        assert_eq!(recent.find(&id).unwrap().record.phases.handler_us, 246);
        recent.forget("a");
        recent.forget("b");
        assert_eq!((recent.bytes(), recent.kept, recent.functions.len()), (0, 0, 0));
    }

    #[test]
    fn all_together_keep_to_the_limit() {
        let limit = 64 << 10;
        let mut recent = Recent::new(limit);
        for i in 0..20_000_u64 {
            // One that is called all the time, and many that are called once.
            let name = if i % 2 == 0 { "hot".to_owned() } else { format!("f{i}") };
            recent.add(Arc::new(ended(&name, i, "ok")));
            assert!(recent.bytes() <= limit && recent.order.len() <= 2 * recent.kept + PER_FUNCTION + 1);
        }
        assert!(recent.newest("hot").count() > 10);
        assert_eq!(recent.newest("f19999").count(), 1);
        assert_eq!(recent.newest("f1").count(), 0);
    }
}
