//! What a virtual machine's guest writes on its console.

use stratos_vm::{ConsoleLine, Ready, lines_of};

/// Any bytes on a console.
pub fn console(data: &[u8]) {
    for line in lines_of(data) {
        assert!(!line.text.chars().any(char::is_control), "{line:?} would steer a terminal");
        assert!(line.text.len() <= 3 * data.len(), "at most a replacement character for each byte");
        if let Some(ready) = Ready::parse(&line) {
            let (all, kernel) = (ready.since_kernel.as_millis(), ready.kernel.as_millis());
            let text = format!("stratos: ready in {all} ms (kernel {kernel} ms)");
            assert_eq!(Ready::parse(&ConsoleLine { text, ..line }), Some(ready));
        }
    }
}
