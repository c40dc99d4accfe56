//! Loop devices, the way in for images where the kernel cannot mount files. Root only.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

#[test]
fn a_file_is_read_through_its_device() {
    let obstacle = if !rustix::process::geteuid().is_root() {
        Some("not root")
    } else if File::open("/dev/loop-control").is_err() {
        Some("no loop devices")
    } else {
        None
    };
    if let Some(obstacle) = obstacle {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "a_file_is_read_through_its_device: {obstacle}"
        );
        eprintln!("skipped: a_file_is_read_through_its_device: {obstacle}");
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 4096]).unwrap();
    let device = stratos_sys::loopdev::attach(file.as_file().as_fd()).unwrap();
    let mut sector = [0; 512];
    File::open(&device.path).unwrap().read_exact(&mut sector).unwrap();
    assert_eq!(sector, [7; 512]);
    let read_only = std::fs::read_to_string(format!(
        "/sys/block/{}/ro",
        device.path.file_name().unwrap().to_str().unwrap()
    ));
    assert_eq!(read_only.unwrap().trim(), "1");
}
