//! A short soak of every layout, with the program as it is.

use std::process::Command;

const TEST: &str = "a_short_soak_of_every_layout_loses_nothing";

#[test]
fn a_short_soak_of_every_layout_loses_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_farshore-soak"))
        .args(["--minutes", "0.6", "--stage", "12"])
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    if let Some((_, why)) = said.split_once("this machine can't do it: ") {
        println!("SKIP {TEST}: {}", why.lines().next().unwrap_or_default());
        return;
    }
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("soak: ") && last.ends_with(", lost 0"), "{last}");
    assert!(!last.starts_with("soak: 0 kills, 0 cuts"), "a soak without a fault proves nothing: {last}");
}
