//! `farshore.v1` only ever gains: what one version of it said, the next one says too.

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// One line for each field, enum value and call.
fn statements() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(farshore_proto::FILE_DESCRIPTOR_SET).expect("the build made it");
    let file = files.file.into_iter().find(|f| f.package() == "farshore.v1").expect("it is in the set");
    let mut said = BTreeSet::new();
    for message in &file.message_type {
        fields("", message, &mut said);
    }
    for e in &file.enum_type {
        said.extend(e.value.iter().map(|v| format!("enum {} {} = {}", e.name(), v.name(), v.number())));
    }
    for service in &file.service {
        for call in &service.method {
            let stream = if call.server_streaming() { "stream " } else { "" };
            let (from, to) = (call.input_type(), call.output_type());
            said.insert(format!("rpc {}.{}({from}) returns ({stream}{to})", service.name(), call.name()));
        }
    }
    said
}

fn fields(outer: &str, message: &DescriptorProto, said: &mut BTreeSet<String>) {
    let name = format!("{outer}{}", message.name());
    for field in &message.field {
        let (label, kind) = (field.label(), field.r#type());
        said.insert(format!(
            "message {name}.{} = {} {label:?} {kind:?} {}",
            field.name(),
            field.number(),
            field.type_name()
        ));
    }
    for nested in &message.nested_type {
        fields(&format!("{name}."), nested, said);
    }
}

#[test]
fn nothing_that_was_said_is_taken_back() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/farshore.v1.txt");
    let now = statements();
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        let text: String = now.iter().map(|line| line.trim_end().to_string() + "\n").collect();
        std::fs::write(&path, text).expect("the golden file is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    let now: BTreeSet<&str> = now.iter().map(|line| line.trim_end()).collect();
    let gone: Vec<&str> = golden.lines().filter(|line| !now.contains(line)).collect();
    assert!(gone.is_empty(), "changed or removed, which breaks older clients: {gone:#?}");
    let new: Vec<&str> = now.iter().filter(|line| !golden.lines().any(|g| g == **line)).copied().collect();
    assert!(new.is_empty(), "new, write it down with FARSHORE_BLESS=1: {new:#?}");
}
