//! `annulus ring`: the ring as a picture, and a line for each member.
//!
//! The picture is the ring itself: a circle cut into the partitions, clockwise from the top, each in the colour (without
//! colours: the letter) of the member that leads it.

use std::f64::consts::TAU;
use std::io::{self, BufWriter, IsTerminal, Write};

use annulus_client::{Member, MemberState, Ring};

use crate::args;
use crate::exit::Failure;
use crate::output::{self, Format};

/// Lines of the picture. A character is about twice as high as wide.
const HEIGHT: usize = 19;
const WIDTH: usize = 2 * HEIGHT;
/// The hole's radius, as a part of the ring's.
const HOLE: f64 = 0.66;

/// Shows the ring.
pub(crate) async fn run(arguments: args::Ring) -> Result<(), Failure> {
    let ring = arguments.connect.client()?.ring().await?;
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.output == Format::Json {
        serde_json::to_writer(&mut out, &*ring).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    let colour = output::colour();
    let picture = arguments.picture || io::stdout().is_terminal();
    if picture {
        for line in draw(&ring) {
            writeln!(out, "  {}", paint(&line, colour))?;
        }
        writeln!(out)?;
    }
    for (at, line) in lines(&ring).iter().enumerate() {
        let mark = match (picture, at) {
            (false, _) => String::new(),
            (true, 0) => "     ".to_owned(),
            (true, _) => format!("  {}  ", paint(&[letter(at - 1)], colour)),
        };
        writeln!(out, "{mark}{line}")?;
    }
    Ok(out.flush()?)
}

/// The letter that stands for the member at this place: A to Z, a to z, then all over.
fn letter(place: usize) -> char {
    let letters = ('A'..='Z').chain('a'..='z').collect::<Vec<_>>();
    letters[place % letters.len()]
}

/// A line with its letters, which stand for members; with colours they become blocks.
fn paint(line: &[char], colour: bool) -> String {
    let mut painted = String::new();
    for character in line {
        let place = (0..52).find(|place| letter(*place) == *character);
        match place.filter(|_| colour) {
            Some(place) => {
                let style = output::member_style(place);
                painted.push_str(&format!("{style}█{style:#}"));
            }
            None => painted.push(*character),
        }
    }
    painted.trim_end().to_owned()
}

/// The picture: letters for led partitions, `·` for those without a leader.
fn draw(ring: &Ring) -> Vec<Vec<char>> {
    let partitions = ring.assignments();
    let members = by_name(ring);
    let leader_letter = |partition: usize| {
        let leader = partitions[partition].leader?;
        members.iter().position(|member| member.id == leader).map(letter)
    };
    let centre = (HEIGHT as f64 / 2.0, WIDTH as f64 / 2.0);
    let cell = |row: usize, column: usize| {
        let up = (centre.0 - row as f64 - 0.5) / centre.0;
        let right = (column as f64 + 0.5 - centre.1) / centre.1;
        let radius = up.hypot(right);
        if !(HOLE..=1.0).contains(&radius) {
            return ' ';
        }
        let turn = right.atan2(up).rem_euclid(TAU) / TAU;
        let partition = (turn * partitions.len() as f64) as usize;
        leader_letter(partition.min(partitions.len() - 1)).unwrap_or('·')
    };
    (0..HEIGHT).map(|row| (0..WIDTH).map(|column| cell(row, column)).collect()).collect()
}

/// A head and a line for each member: name, zone, state, what it holds and leads, where it is.
fn lines(ring: &Ring) -> Vec<String> {
    let partitions = ring.assignments().len();
    let members = by_name(ring);
    let rows = members.iter().map(|member| {
        let replicas = ring.assignments().iter().filter(|at| at.replicas.contains(&member.id)).count();
        vec![
            member.name.clone(),
            if member.zone.is_empty() { "-".to_owned() } else { member.zone.clone() },
            state(member).to_owned(),
            replicas.to_string(),
            format!("{:.1}%", share(replicas, ring)),
            led(ring, member).to_string(),
            member.client_address.clone(),
        ]
    });
    let head = ["member", "zone", "state", "replicas", "share", "leads", "address"];
    let mut lines = output::table(&head, &[3, 4, 5], &rows.collect::<Vec<_>>());
    lines[0]
        .push_str(&format!("   ({partitions} partitions, {} copies, epoch {})", ring.replication_factor, ring.epoch));
    lines
}

/// The members in the order in which people look for them; the ring's own is by id.
pub(crate) fn by_name(ring: &Ring) -> Vec<&Member> {
    let mut members: Vec<&Member> = ring.members.iter().collect();
    // Shorter first, so that node-2 comes before node-10.
    members.sort_by_key(|member| (member.name.len(), &member.name));
    members
}

/// Which part of all replicas these are, in percent.
fn share(replicas: usize, ring: &Ring) -> f64 {
    let all: usize = ring.assignments().iter().map(|assignment| assignment.replicas.len()).sum();
    100.0 * replicas as f64 / all.max(1) as f64
}

/// How many partitions a member leads.
pub(crate) fn led(ring: &Ring, member: &Member) -> usize {
    ring.assignments().iter().filter(|assignment| assignment.leader == Some(member.id)).count()
}

/// A member's state in a word.
pub(crate) fn state(member: &Member) -> &'static str {
    match member.state {
        MemberState::Joining => "joining",
        MemberState::Active => "active",
        MemberState::Leaving => "leaving",
        MemberState::Draining => "draining",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ring() -> Ring {
        let member = |id: &str, name: &str| json!({"id": id, "name": name, "zone": "", "state": "active", "client_address": "h:1"});
        let (one, two) = ("0000000000000001", "0000000000000002");
        let partition =
            |number: u32, leader: Option<&str>| json!({"partition": number, "replicas": [one, two], "leader": leader});
        let partitions =
            [partition(0, Some(one)), partition(1, Some(two)), partition(2, None), partition(3, Some(one))];
        serde_json::from_value(json!({
            "cluster": "00010203-0405-0607-0809-0a0b0c0d0eff", "epoch": 7, "partitions": 4, "replication_factor": 2,
            "members": [member(one, "node-1"), member(two, "node-2")], "assignments": partitions, "moves": [],
        }))
        .unwrap()
    }

    #[test]
    fn the_picture_shows_the_leaders_clockwise_from_the_top() {
        let picture = draw(&ring());
        assert_eq!((picture.len(), picture[0].len()), (HEIGHT, WIDTH));
        let (top, bottom, left, right) = (1, HEIGHT - 2, WIDTH / 2 - 4, WIDTH / 2 + 4);
        assert_eq!((picture[top][right], picture[bottom][right]), ('A', 'B'));
        assert_eq!((picture[bottom][left], picture[top][left]), ('·', 'A'));
        assert_eq!(picture[HEIGHT / 2][WIDTH / 2], ' ');
    }

    #[test]
    fn without_colours_there_is_no_escape_and_with_them_no_letter() {
        assert_eq!(paint(&['A', ' ', '·', ' '], false), "A ·");
        let painted = paint(&['A', '·'], true);
        assert!(painted.contains('█') && painted.contains('\x1b') && !painted.contains('A'));
    }

    #[test]
    fn a_member_has_a_line_with_what_it_holds_and_leads() {
        let lines = lines(&ring());
        assert!(lines[0].contains("(4 partitions, 2 copies, epoch 7)"), "{lines:?}");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["node-1", "-", "active", "4", "50.0%", "2", "h:1"]
        );
    }
}
