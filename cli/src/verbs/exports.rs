//! `farshore snapshot export` and `import`: between a replicator and a file or a pipe.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Seek, SeekFrom, Write};
use std::iter;
use std::path::Path;

use farshore_proto::v1 as api;
use farshore_proto::v1::import_request::Step;
use farshore_replicator::snapshot::export::{
    Base, CHUNK_BYTES_MAX, Chunk, Description, ExportError, ExportReader, ExportWriter,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::args::Format;
use crate::client::{Replicator, present};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::snapshot_args::{ExportArgs, ImportArgs};
use crate::snapshot_views::{ExportedView, ImportedView};
use crate::verbs::snapshots::{get, layout, since_of};

/// Pieces of an import between the file and the connection.
const PIECES_MAX: usize = 4;
/// What the verbs of files are given for the standard streams.
const PIPE: &str = "-";

pub async fn export(format: Format, replicator: &Replicator, args: ExportArgs) -> Result<(), Failure> {
    let snapshot = get(replicator, &args.snapshot).await?;
    let base = match &args.since {
        Some(since) => Some(get(replicator, &since_of(&snapshot, since)).await?),
        None => None,
    };
    let description = describe(&snapshot, base.as_ref())?;
    let pipe = args.to == Path::new(PIPE);
    if pipe && args.resume {
        return Err(Failure::usage("a pipe can't be gone on with", "name a file with --to, or begin anew"));
    }
    if pipe && io::stdout().is_terminal() {
        return Err(Failure::usage("an export is not for a terminal", "name a file with --to, or a pipe"));
    }
    let (mut out, writer) = if pipe {
        let (writer, header) = ExportWriter::begin(&description);
        let mut out: Box<dyn Write> = Box::new(io::stdout().lock());
        written(&args.to, out.write_all(&header))?;
        (out, writer)
    } else {
        let (file, writer) = open(&args, &description)?;
        (Box::new(file) as Box<dyn Write>, writer)
    };
    let resumed_bytes = writer.data_bytes();
    // As long as the export runs, nobody deletes what it reads, nor what it is held against. One that is killed leaves the
    // holds; going on, or the release that a refused deletion names, takes them away.
    let hold = hold_name(&args.to);
    let needed: Vec<&str> = iter::once(&snapshot).chain(&base).map(|snapshot| snapshot.id.as_str()).collect();
    let result = async {
        for id in &needed {
            held(replicator, id, &hold, "").await?;
        }
        copy_out(replicator, &snapshot, base.as_ref(), writer, &mut out, &args.to).await
    };
    let result = result.await;
    let mut released = Ok(());
    for id in &needed {
        released = released.and(held(replicator, id, "", &hold).await);
    }
    let data_bytes = result?;
    released?;
    if pipe {
        return Ok(());
    }
    let view = ExportedView {
        snapshot: format!("{}@{}", snapshot.volume, snapshot.name),
        since: base.map(|base| format!("{}@{}", base.volume, base.name)).unwrap_or_default(),
        file: args.to.display().to_string(),
        data_bytes,
        resumed_bytes,
    };
    output::print(format, &view)
}

/// Different for each file, the same for the one that is gone on with.
fn hold_name(to: &Path) -> String {
    let whole = std::path::absolute(to).unwrap_or_else(|_| to.into());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let of = format!("{}:{}", host.trim(), whole.display());
    let pid = if to == Path::new(PIPE) { std::process::id() } else { 0 };
    format!("export-{:08x}", crc32fast::hash(of.as_bytes()) ^ pid)
}

async fn held(replicator: &Replicator, snapshot: &str, hold: &str, release: &str) -> Result<(), Failure> {
    let request = api::UpdateSnapshotRequest {
        snapshot: snapshot.into(),
        hold: hold.into(),
        release: release.into(),
        ..Default::default()
    };
    replicator.snapshots().update(request).await?;
    Ok(())
}

fn describe(snapshot: &api::Snapshot, base: Option<&api::Snapshot>) -> Result<Description, Failure> {
    let id = |text: &str| {
        u128::from_str_radix(text, 16)
            .map_err(|_| Failure::failed(format!("the replicator gave an id that is none: {text:?}")))
    };
    let base = base.map(|base| Ok::<_, Failure>(Base { snapshot: base.name.clone(), snapshot_id: id(&base.id)? }));
    Ok(Description {
        volume: snapshot.volume.clone(),
        volume_id: id(&snapshot.volume_id)?,
        snapshot: snapshot.name.clone(),
        snapshot_id: id(&snapshot.id)?,
        seq: snapshot.seq,
        size_bytes: snapshot.size_bytes,
        created_unix_ms: snapshot.created_unix_ms,
        labels: snapshot.labels.clone().into_iter().collect(),
        base: base.transpose()?,
    })
}

fn written(to: &Path, result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::closed_pipe(),
        _ => Failure::failed(format!("{} can't be written", to.display()))
            .because(error)
            .remedied("make room, then go on with --resume"),
    })
}

/// The file, where the stream in it ends, and the writer that goes on there.
fn open(args: &ExportArgs, description: &Description) -> Result<(File, ExportWriter), Failure> {
    let path = &args.to;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(
            Exit::AlreadyExists,
            format!("{} exists", path.display()),
            "go on with it: --resume; overwrite it: --force; or name another file",
        ),
        _ => Failure::failed(format!("{} can't be opened", path.display())).because(error),
    };
    let mut options = File::options();
    options.read(true).write(true);
    if !args.resume || !path.exists() {
        let options = if args.force { options.create(true).truncate(true) } else { options.create_new(true) };
        let mut file = options.open(path).map_err(failed)?;
        let (writer, header) = ExportWriter::begin(description);
        written(path, file.write_all(&header))?;
        return Ok((file, writer));
    }
    let mut file = options.open(path).map_err(failed)?;
    let refused = |what: String| Failure::new(Exit::Refused, what, "name another file, or begin anew with --force");
    let mut reader = match ExportReader::begin(BufReader::new(&file)) {
        Ok(reader) => reader,
        // It did not come as far as its header: begin it.
        Err(ExportError::Cut { .. }) => {
            let (writer, header) = ExportWriter::begin(description);
            written(path, file.seek(SeekFrom::Start(0)).map(drop))?;
            written(path, file.set_len(0).and_then(|()| file.write_all(&header)))?;
            return Ok((file, writer));
        }
        Err(error) => return Err(refused(format!("{} can't be gone on with", path.display())).because(error)),
    };
    if reader.description() != description && !same_image(reader.description(), description) {
        let found = reader.description();
        let since = found.base.as_ref().map(|b| format!(" since {}", b.snapshot)).unwrap_or_default();
        return Err(refused(format!(
            "{} is an export of {}@{}{since}, not of what was asked for",
            path.display(),
            found.volume,
            found.snapshot
        )));
    }
    let bar = bar("verifying", description.size_bytes);
    loop {
        match reader.next_chunk() {
            Ok(Some(chunk)) => bar.set_position(chunk.offset + chunk.length),
            Ok(None) => {
                return Err(refused(format!("{} is whole already", path.display())).remedied("there is nothing to do"));
            }
            Err(ExportError::Io { at, source }) => {
                return Err(Failure::failed(format!("{} can't be read at byte {at}", path.display())).because(source));
            }
            Err(_) => break,
        }
    }
    bar.finish_and_clear();
    let whole = reader.whole_bytes();
    let writer = reader.into_writer();
    written(path, file.set_len(whole).and_then(|()| file.seek(SeekFrom::Start(whole)).map(drop)))?;
    Ok((file, writer))
}

/// Labels may have changed since; contents can't.
fn same_image(a: &Description, b: &Description) -> bool {
    let base = |d: &Description| d.base.as_ref().map(|base| base.snapshot_id);
    (a.snapshot_id, base(a), a.size_bytes) == (b.snapshot_id, base(b), b.size_bytes)
}

async fn copy_out(
    replicator: &Replicator,
    snapshot: &api::Snapshot,
    base: Option<&api::Snapshot>,
    mut writer: ExportWriter,
    out: &mut dyn Write,
    path: &Path,
) -> Result<u64, Failure> {
    let request = api::DiffRequest {
        since: base.map(|base| base.id.clone()).unwrap_or_default(),
        snapshot: snapshot.id.clone(),
        offset_bytes: writer.next_offset(),
        max_ranges: 0,
    };
    let bar = bar("exporting", snapshot.size_bytes);
    bar.set_position(writer.next_offset());
    let mut pages = replicator.snapshots().diff(request).await?.into_inner();
    while let Some(page) = pages.message().await? {
        for range in page.ranges {
            if range.hole {
                written(path, out.write_all(&writer.hole(range.offset_bytes, range.length_bytes)))?;
            } else {
                let request = api::ReadSnapshotRequest {
                    snapshot: snapshot.id.clone(),
                    offset_bytes: range.offset_bytes,
                    length_bytes: range.length_bytes,
                };
                let mut at = range.offset_bytes;
                let mut pieces = replicator.snapshots().read(request).await?.into_inner();
                while let Some(piece) = pieces.message().await? {
                    for data in piece.data.chunks(CHUNK_BYTES_MAX) {
                        written(path, out.write_all(&writer.data(at, data)))?;
                        at += data.len() as u64;
                    }
                }
                if at != range.offset_bytes + range.length_bytes {
                    return Err(Failure::failed("the replicator gave fewer bytes than it said"));
                }
            }
            bar.set_position(writer.next_offset());
        }
    }
    bar.finish_and_clear();
    let data_bytes = writer.data_bytes();
    written(path, out.write_all(&writer.end()).and_then(|()| out.flush()))?;
    Ok(data_bytes)
}

pub async fn import(format: Format, replicator: &Replicator, args: ImportArgs) -> Result<(), Failure> {
    let from = args.from.clone();
    let source: Box<dyn Read + Send> = if from == Path::new(PIPE) {
        Box::new(io::stdin())
    } else {
        let opened = File::open(&from);
        Box::new(opened.map_err(|error| {
            let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
            Failure::new(exit, format!("{} can't be opened", from.display()), "name an export with --from")
                .because(error)
        })?)
    };
    let reader = ExportReader::begin(BufReader::with_capacity(1 << 20, source)).map_err(|error| bad(&from, &error))?;
    let description = reader.description().clone();
    if !args.layout.members.is_empty() {
        create_for(replicator, &args, &description).await?;
    }
    let volume = present(
        replicator.volumes().get(api::GetVolumeRequest { volume: args.volume.clone() }).await?.into_inner().volume,
    )?;
    if volume.size_bytes < description.size_bytes {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "volume {:?} has {} bytes, and the export is of a volume of {}",
                volume.name, volume.size_bytes, description.size_bytes
            ),
            format!("grow it: farshore volume resize {} {}", volume.name, description.size_bytes),
        ));
    }
    let begin = api::ImportBegin {
        volume: volume.id,
        snapshot: args.name.unwrap_or_else(|| description.snapshot.clone()),
        labels: description.labels.iter().filter(|(key, _)| !key.starts_with("farshore.")).cloned().collect(),
        source_snapshot_id: format!("{:032x}", description.snapshot_id),
        base_snapshot_id: description.base.as_ref().map(|b| format!("{:032x}", b.snapshot_id)).unwrap_or_default(),
    };
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let reading = tokio::task::spawn_blocking(move || send_all(reader, begin, &sender));
    let answer = replicator.patient_snapshots().import(ReceiverStream::new(pieces)).await;
    // What is wrong with the file says more than that the call broke off.
    match reading.await {
        Ok(Err(error)) => return Err(bad(&from, &error)),
        Ok(Ok(())) => {}
        Err(error) => return Err(Failure::failed("reading the export ended").because(error)),
    }
    let answer = answer?.into_inner();
    let snapshot = present(answer.snapshot)?.into();
    let source = format!("{}@{}", description.volume, description.snapshot);
    output::print(format, &ImportedView { snapshot, written_bytes: answer.written_bytes, source })
}

async fn create_for(replicator: &Replicator, args: &ImportArgs, description: &Description) -> Result<(), Failure> {
    if let Some(base) = &description.base {
        return Err(Failure::new(
            Exit::Refused,
            format!("the export holds only what changed since {}", base.snapshot),
            "import that one first, then this one into the same volume, without --members",
        ));
    }
    let layout_args = crate::snapshot_args::LayoutArgs {
        members: args.layout.members.clone(),
        witness: args.layout.witness.clone(),
        quorum: args.layout.quorum.clone(),
    };
    let request = api::CreateVolumeRequest {
        name: args.volume.clone(),
        size_bytes: args.size.unwrap_or(description.size_bytes),
        ..layout(replicator, layout_args, None).await?
    };
    replicator.volumes().create(request).await?;
    Ok(())
}

/// Runs on a thread of its own, at the pace of the connection. Ends quietly where the replicator hung up: its answer says why.
fn send_all(
    mut reader: ExportReader<impl Read>,
    begin: api::ImportBegin,
    sender: &mpsc::Sender<api::ImportRequest>,
) -> Result<(), ExportError> {
    let send = |step| sender.blocking_send(api::ImportRequest { step: Some(step) }).is_ok();
    let bar = bar("importing", reader.description().size_bytes);
    let mut going = send(Step::Begin(begin));
    while let Some(Chunk { offset, length, data }) = reader.next_chunk()? {
        bar.set_position(offset + length);
        let data = data.map(Vec::from).unwrap_or_default();
        going = going && send(Step::Range(api::ImportRange { offset_bytes: offset, length_bytes: length, data }));
        if !going {
            return Ok(());
        }
    }
    send(Step::End(api::ImportEnd {}));
    bar.finish_and_clear();
    Ok(())
}

fn bad(from: &Path, error: &ExportError) -> Failure {
    let remedy = match error {
        ExportError::Foreign => "name a file that farshore snapshot export wrote",
        ExportError::Newer(_) => "import it with the version that wrote it, or a later one",
        ExportError::Cut { .. } => "finish it where it was made: farshore snapshot export --resume",
        ExportError::Damaged { .. } | ExportError::Longer(_) => "export it again; the volume is not finished",
        ExportError::Io { .. } => "see whether its disk can be read",
    };
    Failure::new(Exit::Refused, format!("the export in {} can't be imported", from.display()), remedy).because(error)
}

fn bar(what: &'static str, size_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(size_bytes).with_prefix(what);
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) =
        ProgressStyle::with_template("{prefix} [{bar:32}] {percent:>3} % {binary_bytes_per_sec} ({elapsed})")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
