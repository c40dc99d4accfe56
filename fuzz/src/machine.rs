//! What the node reads of its machine: processes, the kernel's log, boot records, what starts touched.

use std::path::{Component, Path};

use stratos_agent::machine::{kernel_log, process};
use stratos_agent::warm::recording::{MAX_IMAGE_BYTES, MAX_IMAGES, Recording};
use stratos_api::boot_chart;
use stratos_api::node::BootRecord;

/// Any of them.
pub fn machine(data: &[u8]) {
    if let Some(stat) = process::parse_stat(data) {
        assert!(data.len() >= stat.name.len() / 3, "a name comes from the line");
    }
    if let Some(record) = kernel_log::parse(data) {
        assert!(!record.message.contains('\n'));
    }
    if let Ok(record) = serde_json::from_slice::<BootRecord>(data) {
        for width in [0, 80] {
            let chart = boot_chart::text(&record, width);
            assert!(chart.lines().all(|line| line.chars().count() <= width.max(40)), "{chart}");
            assert!(!chart.contains(|c: char| c.is_control() && c != '\n'));
        }
        let svg = boot_chart::svg(&record);
        // What the chart itself opens, and nothing that a record adds.
        let tags = svg.matches('<').count();
        let own = ["svg", "title", "style", "text", "line", "g", "rect"];
        let opened = own
            .iter()
            .map(|tag| svg.matches(&format!("<{tag}")).count() + svg.matches(&format!("</{tag}>")).count());
        assert_eq!(tags, opened.sum::<usize>(), "{svg}");
    }
    if let Some(recording) = Recording::parse(data) {
        assert!(recording.images.len() <= MAX_IMAGES);
        for image in &recording.images {
            assert!(image.bytes() <= MAX_IMAGE_BYTES);
            let inside =
                |path: &str| Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            assert!(image.files.iter().all(|file| inside(&file.path)));
        }
        let written = serde_json::to_vec(&recording).expect("a recording is plain data");
        assert_eq!(Recording::parse(&written), Some(recording));
    }
}
