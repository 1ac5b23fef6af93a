//! `tests/summary` counts what cargo printed, and fails where it must.

use std::io::Write;
use std::process::{Command, Stdio};

use farshore_architecture::sources::root;

/// The last line and whether the script was content.
fn summary(cargo_code: u8, log: &str) -> (String, bool) {
    let mut child = Command::new(root().join("tests/summary"))
        .arg(cargo_code.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bash is there");
    child.stdin.take().expect("piped").write_all(log.as_bytes()).expect("it reads its input");
    let out = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(out.stdout).expect("it prints text");
    (text.lines().last().unwrap_or_default().to_string(), out.status.success())
}

const GOOD: &str = "     Running unittests src/lib.rs (a)
test a::b ... ok
test a::c ... ignored, needs two machines
SKIP a::d: no /dev/fuse
test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
   Doc-tests a
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

#[test]
fn results_are_summed_and_what_says_skip_is_not_passed() {
    assert_eq!(summary(0, GOOD), ("8 passed, 0 failed, 2 skipped".to_string(), true));
}

#[test]
fn a_failure_is_a_failure() {
    let log = GOOD.replace("2 passed; 0 failed", "1 passed; 1 failed");
    assert_eq!(summary(101, &log), ("7 passed, 1 failed, 2 skipped".to_string(), false));
}

#[test]
fn a_binary_without_a_result_crashed() {
    let log = format!("{GOOD}     Running tests/crash.rs (b)\n");
    assert_eq!(summary(101, &log), ("8 passed, 1 failed, 2 skipped".to_string(), false));
}

#[test]
fn nothing_compiled_is_one_failure() {
    assert_eq!(summary(101, "error: could not compile\n"), ("0 passed, 1 failed, 0 skipped".to_string(), false));
}
