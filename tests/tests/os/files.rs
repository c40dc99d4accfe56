//! What is in the built files, read from their bytes.

use stratos_tests::Workshop;
use stratos_types::KernelChoice;

/// One file of an initramfs.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    mode: u32,
}

/// The entries of a cpio archive (the kernel's initramfs-buffer-format, "newc").
fn entries(archive: &[u8]) -> Vec<Entry> {
    let (mut entries, mut at) = (Vec::new(), 0);
    loop {
        let head = &archive[at..at + 110];
        assert_eq!(&head[..6], b"070701", "at {at}");
        let field = |number: usize| {
            let digits = &head[6 + 8 * number..14 + 8 * number];
            u32::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("a number")
        };
        let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
        let name = String::from_utf8(archive[at + 110..at + 110 + name_size - 1].to_vec()).expect("a name");
        at = (at + 110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
        if name == "TRAILER!!!" {
            return entries;
        }
        entries.push(Entry { name, mode });
    }
}

async fn the_initramfs_holds_pid_1_and_modules_only(test: &str, kernel: KernelChoice) {
    let Some(workshop) = Workshop::open(test, kernel).await else { return };
    let archive = std::fs::read(workshop.image().file("initramfs.img").expect("one")).expect("a file");
    for Entry { name, mode } in entries(&archive) {
        assert_eq!(mode & 0o6002, 0, "{name}: neither setuid nor writable by everybody");
        let is_folder = mode & 0o170_000 == 0o040_000;
        let is_module = name.strip_prefix("lib/modules/").is_some_and(|n| n.ends_with(".ko") || n == "order");
        assert!(is_folder || is_module || ["init", "dev/console"].contains(&name.as_str()), "{name}");
    }
}

#[tokio::test]
async fn the_initramfs_of_debians_kernel_holds_pid_1_and_modules_only() {
    let test = "the_initramfs_of_debians_kernel_holds_pid_1_and_modules_only";
    the_initramfs_holds_pid_1_and_modules_only(test, KernelChoice::Debian).await;
}

#[tokio::test]
async fn the_initramfs_of_the_own_kernel_holds_pid_1_only() {
    let test = "the_initramfs_of_the_own_kernel_holds_pid_1_only";
    the_initramfs_holds_pid_1_and_modules_only(test, KernelChoice::Stratos).await;
}
