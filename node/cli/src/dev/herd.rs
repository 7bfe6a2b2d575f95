//! The members' processes: started, waited for, ended.
//!
//! Each process has a task that owns it, so that a signal is never sent to a process id that the system has given to
//! somebody else meanwhile. A member gets a process group of its own, so that a Ctrl-C in the terminal reaches only `dev`,
//! which then ends the members in order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::folder::{DevFile, DevMember};
use super::layout::Place;
use crate::exit::Failure;

/// How long a member may take to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// A member that ran this long before it died is started again at once.
const HEALTHY: Duration = Duration::from_secs(10);
/// The first wait before a member that died young is started again; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A log that is longer than this when its member is started becomes `log.old`.
const LOG_LIMIT: u64 = 16 * 1024 * 1024;

/// How members are asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nothing,
    Terminate,
    Kill,
}

/// What happened to a member, by its number.
#[derive(Debug)]
pub(super) enum Event {
    /// Its process ended by itself.
    Ended(Ended),
    /// Its process ended because it was to.
    Stopped(u16),
    /// The wait before its next start is over.
    Due(u16),
}

/// How a member's process ended.
#[derive(Debug)]
pub(super) struct Ended {
    number: u16,
    pid: u32,
    status: io::Result<ExitStatus>,
    lived: Duration,
}

/// All members.
#[derive(Debug)]
pub(super) struct Herd {
    program: PathBuf,
    /// Variables that all members get.
    environment: Vec<(String, String)>,
    tasks: JoinSet<Event>,
    members: BTreeMap<u16, Member>,
}

/// A member and its process.
#[derive(Debug)]
struct Member {
    place: Place,
    id: String,
    /// `None` while it does not run.
    pid: Option<u32>,
    asked: watch::Sender<Asked>,
    /// Whether its end is wanted.
    stopping: bool,
    /// How often it died young in a row.
    early_deaths: u32,
}

impl Herd {
    /// Members that do not run yet.
    pub(super) fn new(
        program: PathBuf,
        environment: Vec<(String, String)>,
        places: impl IntoIterator<Item = Place>,
    ) -> Self {
        let mut herd = Self { program, environment, tasks: JoinSet::new(), members: BTreeMap::new() };
        places.into_iter().for_each(|place| herd.add(place));
        herd
    }

    /// Adds a member that does not run yet.
    pub(super) fn add(&mut self, place: Place) {
        let asked = watch::channel(Asked::Nothing).0;
        let number = place.number;
        let member = Member { place, id: String::new(), pid: None, asked, stopping: false, early_deaths: 0 };
        self.members.insert(number, member);
    }

    /// Where the members are whose processes are here to stay, in order.
    pub(super) fn places(&self) -> Vec<Place> {
        let staying = self.members.values().filter(|member| !member.stopping);
        staying.map(|member| member.place.clone()).collect()
    }

    /// Takes note of who a member is.
    pub(super) fn set_id(&mut self, number: u16, id: String) {
        if let Some(member) = self.members.get_mut(&number) {
            member.id = id;
        }
    }

    /// What `dev.json` should say now.
    pub(super) fn dev_file(&self) -> DevFile {
        let members = self.members.values().map(|member| DevMember {
            name: member.place.name.clone(),
            id: member.id.clone(),
            pid: member.pid,
            client_address: member.place.client_address.clone(),
            admin_address: member.place.admin_address.clone(),
            peer_address: member.place.peer_address.clone(),
            data: member.place.data.clone(),
        });
        DevFile { members: members.collect() }
    }

    /// Starts a member.
    pub(super) fn start(&mut self, number: u16) -> Result<(), Failure> {
        let Some(member) = self.members.get_mut(&number) else { return Ok(()) };
        let place = &member.place;
        let failed = |error: io::Error| Failure::system(format!("{} can't be started", place.name), &error);
        let log = open_log(&place.log).map_err(failed)?;
        fs::create_dir_all(&place.data).map_err(failed)?;
        let child = command(&self.program, place, log);
        let child =
            child.and_then(|mut command| command.envs(self.environment.iter().cloned()).spawn()).map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        member.pid = Some(pid);
        member.stopping = false;
        member.asked.send_replace(Asked::Nothing);
        let asked = member.asked.subscribe();
        self.tasks.spawn(async move {
            let born = Instant::now();
            let status = live(child, asked).await;
            Event::Ended(Ended { number, pid, status, lived: born.elapsed() })
        });
        Ok(())
    }

    /// Asks a member to end for good: [`Event::Stopped`] tells when it has.
    pub(super) fn stop(&mut self, number: u16) {
        let Some(member) = self.members.get_mut(&number).filter(|member| !member.stopping) else { return };
        member.stopping = true;
        if member.pid.is_none() {
            self.tasks.spawn(async move { Event::Stopped(number) });
            return;
        }
        member.asked.send_replace(Asked::Terminate);
    }

    /// Forgets a member that has stopped.
    pub(super) fn remove(&mut self, number: u16) {
        self.members.remove(&number);
    }

    /// Where a member is, and who it is.
    pub(super) fn member(&self, number: u16) -> Option<(&Place, &str)> {
        self.members.get(&number).map(|member| (&member.place, member.id.as_str()))
    }

    /// Starts a member again: at once if it ran well before, later each time it dies young.
    pub(super) fn start_later(&mut self, ended: &Ended) {
        if let Some(member) = self.members.get_mut(&ended.number).filter(|_| ended.lived >= HEALTHY) {
            member.early_deaths = 0;
        }
        self.start_later_after_failure(ended.number);
    }

    /// Starts a member again that could not even be started.
    pub(super) fn start_later_after_failure(&mut self, number: u16) {
        let Some(member) = self.members.get_mut(&number) else { return };
        let deaths = member.early_deaths;
        member.early_deaths += 1;
        let doubled = FIRST_WAIT * 2_u32.pow(deaths.saturating_sub(1).min(10));
        let wait = if deaths == 0 { Duration::ZERO } else { doubled.min(LONGEST_WAIT) };
        self.tasks.spawn(async move {
            sleep(wait).await;
            Event::Due(number)
        });
    }

    /// What happens next. Pending for ever when no member runs or will.
    pub(super) async fn event(&mut self) -> Event {
        loop {
            let event = match self.tasks.join_next().await {
                Some(Ok(event)) => event,
                Some(Err(_)) => continue,
                None => std::future::pending().await,
            };
            let (Event::Ended(Ended { number, .. }) | Event::Stopped(number) | Event::Due(number)) = event;
            let Some(member) = self.members.get_mut(&number) else { continue };
            match event {
                Event::Ended(ended) => {
                    member.pid = None;
                    return if member.stopping { Event::Stopped(number) } else { Event::Ended(ended) };
                }
                // Whoever is to stop does not start again.
                Event::Due(_) if member.stopping => {}
                event => return event,
            }
        }
    }

    /// Waits for the first member to end, which in a start is an error; says why as far as its log tells.
    pub(super) async fn ended_early(&mut self) -> Failure {
        loop {
            if let Event::Ended(ended) = self.event().await {
                return self.early_end(&ended);
            }
        }
    }

    /// Why a start failed in which this member ended.
    pub(super) fn early_end(&self, ended: &Ended) -> Failure {
        let Some((place, _)) = self.member(ended.number) else {
            return Failure::Refused("a member has ended".to_owned());
        };
        let last = last_lines(&place.log).map(|line| format!("\n  | {line}"));
        Failure::Refused(format!(
            "{} can't be started: it ended with {}. Its log is `{}`{}",
            place.name,
            status_text(&ended.status),
            place.log.display(),
            last.collect::<String>()
        ))
    }

    /// What to say of a member that died.
    pub(super) fn obituary(&self, ended: &Ended, no_restart: bool) -> String {
        let Some((place, _)) = self.member(ended.number) else { return String::new() };
        let next = if no_restart { "it stays dead (--no-restart)" } else { "it is started again" };
        format!(
            "{} (pid {}) ended with {}; {next}. Its log: {}",
            place.name,
            ended.pid,
            status_text(&ended.status),
            place.log.display()
        )
    }

    /// Ends all members: asks, waits up to ten seconds, kills; kills at once when `hurry` comes.
    pub(super) async fn end(mut self, hurry: impl Future<Output = ()>) {
        let ask = |what| {
            for member in self.members.values() {
                member.asked.send_replace(what);
            }
        };
        ask(Asked::Terminate);
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        tokio::pin!(all_ended, hurry);
        tokio::select! {
            () = &mut all_ended => return,
            () = &mut hurry => {}
        }
        ask(Asked::Kill);
        all_ended.await;
    }
}

fn command(program: &Path, member: &Place, log: File) -> io::Result<Command> {
    let mut command = Command::new(program);
    // Settings that suit all members, such as ANNULUS_LOG_LEVEL, are passed on; those of one member can't be meant.
    for setting in ["CONFIG", "ZONE", "CLIENT_ADVERTISE", "ADMIN_ADVERTISE", "PEER_ADVERTISE"] {
        command.env_remove(format!("ANNULUS_{setting}"));
    }
    command.arg("node").arg("--name").arg(&member.name).arg("--data").arg(&member.data);
    command.arg("--client-listen").arg(&member.client_address).arg("--admin-listen").arg(&member.admin_address);
    command.arg("--peer-listen").arg(&member.peer_address).arg("--log-format").arg("text").arg("--exit-with-stdin");
    if !member.zone.is_empty() {
        command.arg("--zone").arg(&member.zone);
    }
    // A damaged volume is set aside, and its member comes back as another in its place. Whoever sets this knows better.
    if std::env::var_os("ANNULUS_ON_DAMAGE").is_none() {
        command.env("ANNULUS_ON_DAMAGE", "quarantine");
    }
    // The log is a file, whatever this terminal can do.
    command.env("NO_COLOR", "1");
    command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

/// Waits for a process to end, and ends it when asked to.
async fn live(mut child: Child, mut asked: watch::Receiver<Asked>) -> io::Result<ExitStatus> {
    // The member ends when this is closed; waiting for a child would close it if it were still in there.
    let _stdin = child.stdin.take();
    tokio::select! {
        status = child.wait() => return status,
        _ = asked.wait_for(|asked| *asked >= Asked::Terminate) => {}
    }
    // It has not been waited for, so the process id is still its own.
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // It may just have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
    tokio::select! {
        ended = timeout(END_PATIENCE, child.wait()) => if let Ok(status) = ended { return status },
        _ = asked.wait_for(|asked| *asked == Asked::Kill) => {}
    }
    child.start_kill()?;
    child.wait().await
}

/// Opens a log for more; one that has grown long is put aside first.
fn open_log(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        fs::rename(path, path.with_extension("old"))?;
    }
    File::options().append(true).create(true).open(path)
}

/// The last five lines of a log, as far as they can be read.
fn last_lines(path: &Path) -> impl Iterator<Item = String> {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        io::Result::Ok(text)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let skipped = lines.len().saturating_sub(5);
    lines.into_iter().skip(skipped)
}

fn status_text(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}{}", signal_name(signal)),
            (None, None) => status.to_string(),
        },
        Err(error) => format!("an unknown status ({error})"),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        6 => " (SIGABRT)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_put_aside_and_its_end_can_be_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node-1").join("log");
        open_log(&path).unwrap();
        fs::write(&path, (0..9).map(|line| format!("line {line}\n")).collect::<String>()).unwrap();
        assert_eq!(last_lines(&path).collect::<Vec<_>>(), ["line 4", "line 5", "line 6", "line 7", "line 8"]);
        File::options().write(true).open(&path).unwrap().set_len(LOG_LIMIT + 1).unwrap();
        assert_eq!(open_log(&path).unwrap().metadata().unwrap().len(), 0);
        assert!(path.with_extension("old").exists());
        assert_eq!(last_lines(&folder.path().join("none")).count(), 0);
    }
}
