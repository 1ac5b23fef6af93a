//! The device process of a site: what holds its block devices while daemons come and go.

use std::fs::OpenOptions;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::binaries::program;
use super::site::Site;
use super::wait::eventually;

pub struct DeviceHolder {
    child: Child,
    socket: PathBuf,
}

impl DeviceHolder {
    /// Starts one, and has the site's daemons use it from their next start on.
    pub fn start(site: &Site) -> DeviceHolder {
        let socket = site.dir.join("run/device.sock");
        let text = std::fs::read_to_string(site.config_path()).expect("a site is equipped");
        let process = format!("[device]\nprocess = {:?}\n", socket.display().to_string());
        if !text.contains("\nprocess = ") {
            let text = match text.contains("[device]\n") {
                true => text.replace("[device]\n", &process),
                false => text + &process,
            };
            std::fs::write(site.config_path(), text).expect("the configuration can be written");
        }
        let log =
            OpenOptions::new().create(true).append(true).open(site.dir.join("device.log")).expect("the log opens");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program("farshore-device"))
            .arg("--socket")
            .arg(&socket)
            .arg("--runtime-dir")
            .arg(site.dir.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("setpriv (util-linux) starts the device process");
        let holder = DeviceHolder { child, socket };
        eventually("the device process to listen", || UnixStream::connect(&holder.socket));
        holder
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().expect("a child can be killed until it is waited for");
        self.child.wait().expect("a child can be waited for");
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a child can be signalled");
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for DeviceHolder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
