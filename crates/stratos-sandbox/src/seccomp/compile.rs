//! From a checked profile to a BPF program.
//!
//! Code is laid down backwards, last instruction first. BPF jumps only go forward, so whatever a jump leads to
//! stands already when the jump is written: offsets need no second pass, equal endings are shared, and a
//! target beyond the 255 instructions a conditional jump reaches gets an unconditional one in between.

use std::collections::HashMap;

use super::BpfInstruction;
use super::profile::{Action, Condition, Decision, Profile};

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets into `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

#[cfg(target_arch = "x86_64")]
pub(super) const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
pub(super) const AUDIT_ARCH: u32 = 0xc000_00f3;

/// Numbers from here on are x32 calls on x86_64, and no calls at all elsewhere.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Compiles `profile`. The program's first instruction comes first.
pub(super) fn compile(profile: &Profile) -> Vec<BpfInstruction> {
    let mut code = Assembler::default();
    let ranges = ranges(profile);
    let tree = code.tree(&ranges);
    let no_such_call = code.answer(Action::Errno(libc::ENOSYS as u16));
    code.branch(JUMP_AT_LEAST, X32_BIT, no_such_call, tree);
    let right_arch = code.push(LOAD_WORD, OFFSET_NUMBER);
    let kill = code.finish(RETURN_KILL_PROCESS);
    code.branch(JUMP_EQUAL, AUDIT_ARCH, right_arch, kill);
    code.push(LOAD_WORD, OFFSET_ARCH);
    code.reversed.reverse();
    code.reversed
}

/// A run of call numbers, up to the next range's start, with one decision.
struct Range<'a> {
    start: u32,
    leaf: Leaf<'a>,
}

#[derive(Clone, Copy, PartialEq)]
enum Leaf<'a> {
    Plain(Action),
    Conditional(&'a Decision),
}

/// Every number's decision as adjacent ranges, the first from 0, equal neighbours merged.
fn ranges(profile: &Profile) -> Vec<Range<'_>> {
    let mut ranges = vec![Range { start: 0, leaf: Leaf::Plain(profile.default) }];
    let mut add = |start: u32, leaf| {
        if ranges.last().is_some_and(|last| last.start == start) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|last| last.leaf != leaf) {
            ranges.push(Range { start, leaf });
        }
    };
    for (number, decision) in &profile.decisions {
        let leaf = match decision.branches.as_slice() {
            [] => Leaf::Plain(decision.otherwise),
            _ => Leaf::Conditional(decision),
        };
        add(*number, leaf);
        add(number + 1, Leaf::Plain(profile.default));
    }
    ranges
}

/// A place in the program, counted from its end.
#[derive(Clone, Copy)]
struct Label(usize);

#[derive(Default)]
struct Assembler {
    /// The program, last instruction first.
    reversed: Vec<BpfInstruction>,
    /// The latest place that returns a value.
    endings: HashMap<u32, Label>,
}

impl Assembler {
    /// How far a conditional jump may reach, less the jumps that may still come in between.
    const REACH: usize = 250;

    fn push(&mut self, code: u16, k: u32) -> Label {
        self.reversed.push(BpfInstruction { code, jt: 0, jf: 0, k });
        Label(self.reversed.len() - 1)
    }

    /// Instructions between the next one written and `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0 - 1
    }

    /// A place that returns `value`: a nearby one if there is one.
    fn finish(&mut self, value: u32) -> Label {
        match self.endings.get(&value) {
            Some(label) if self.distance(*label) < Self::REACH => *label,
            _ => {
                let label = self.push(RETURN, value);
                self.endings.insert(value, label);
                label
            }
        }
    }

    fn answer(&mut self, action: Action) -> Label {
        self.finish(match action {
            Action::Allow => RETURN_ALLOW,
            Action::Errno(errno) => RETURN_ERRNO | u32::from(errno),
        })
    }

    /// A place within reach that leads to `target`.
    fn near(&mut self, target: Label) -> Label {
        match self.distance(target) {
            distance if distance < Self::REACH => target,
            distance => self.push(JUMP, distance as u32),
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let (yes, no) = (self.near(yes), self.near(no));
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.reversed.push(BpfInstruction { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// Binary search for the accumulator, which holds the call number.
    fn tree(&mut self, ranges: &[Range<'_>]) -> Label {
        if let [only] = ranges {
            return self.leaf(only.leaf);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let high_label = self.tree(high);
        let low_label = self.tree(low);
        self.branch(JUMP_AT_LEAST, high[0].start, high_label, low_label)
    }

    fn leaf(&mut self, leaf: Leaf<'_>) -> Label {
        match leaf {
            Leaf::Plain(action) => self.answer(action),
            Leaf::Conditional(decision) => {
                let mut next = self.answer(decision.otherwise);
                for (conditions, action) in decision.branches.iter().rev() {
                    let mut holds = self.answer(*action);
                    for condition in conditions.iter().rev() {
                        holds = self.condition(condition, holds, next);
                    }
                    next = holds;
                }
                next
            }
        }
    }

    fn condition(&mut self, condition: &Condition, holds: Label, fails: Label) -> Label {
        let (found, mut missing) = if condition.negated { (fails, holds) } else { (holds, fails) };
        let low = OFFSET_ARGS + 8 * u32::from(condition.index);
        let (mask_low, mask_high) = (condition.mask as u32, (condition.mask >> 32) as u32);
        if condition.narrow || mask_high == 0 {
            for value in condition.values.iter().rev() {
                missing = self.branch(JUMP_EQUAL, *value as u32, found, missing);
            }
            return self.load(low, mask_low);
        }
        for value in condition.values.iter().rev() {
            let mut matches = found;
            if mask_low != 0 {
                self.branch(JUMP_EQUAL, *value as u32, found, missing);
                matches = self.load(low, mask_low);
            }
            self.branch(JUMP_EQUAL, (*value >> 32) as u32, matches, missing);
            missing = self.load(low + 4, mask_high);
        }
        missing
    }

    /// Loads a word of the call's data and keeps the bits of `mask`; what was written last follows.
    fn load(&mut self, offset: u32, mask: u32) -> Label {
        if mask != u32::MAX {
            self.push(AND, mask);
        }
        self.push(LOAD_WORD, offset)
    }
}

#[cfg(not(target_endian = "little"))]
compile_error!("argument words are loaded in little-endian order");
