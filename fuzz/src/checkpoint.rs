//! Checkpoint images, and what is read of programs that are checkpointed.

use stratos_checkpoint::dump::go;
use stratos_checkpoint::image::{Checkpoint, PAGE};
use stratos_checkpoint::plan::{Whereabouts, template};
use stratos_restorer::abi;

/// Metadata: what is accepted means the same when it is written and read again, and a plan made from it maps nothing over
/// the restorer.
pub fn checkpoint(input: &[u8]) {
    let Ok(checkpoint) = Checkpoint::parse(input) else { return };
    let written = serde_json::to_vec(&checkpoint).expect("what was read can be written");
    assert_eq!(Checkpoint::parse(&written).expect("and read again"), checkpoint);
    let Some(bytes) = checkpoint.page_count().checked_mul(PAGE) else { return };
    // What a small machine has no memory for is not planned.
    if checkpoint.check(bytes).is_err() || bytes > 1 << 40 {
        return;
    }
    let here = Whereabouts { kernel: checkpoint.kernel_mappings.clone(), ..Whereabouts::default() };
    let plan = template(&checkpoint, &here, PAGE, 5).expect("the kernel's mappings are those of the image");
    assert!(!plan.memory.is_empty() && plan.build.1 > 0);
    for mapping in &checkpoint.mappings {
        assert!(mapping.end <= abi::BASE || mapping.start >= abi::END);
    }
}

/// A Go program: its symbols and debugging information lead to ranges, or to a reason; a list of threads that never ends does
/// not keep anybody. A word of memory is its address, but for some.
pub fn go_program(input: &[u8]) {
    let word = |address: u64| Ok(if address.is_multiple_of(3) { 0 } else { address });
    if let Some(Ok(ranges)) = go::of_program(input, word) {
        assert!(ranges.iter().all(|(_, bytes)| (1..=288).contains(bytes)));
    }
}
