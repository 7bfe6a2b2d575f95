//! `annulus ring`: the ring as a picture, and a line for each member.
//!
//! The picture is the ring itself: a circle cut into the partitions, clockwise from the top, each in the colour (without
//! colours: the letter) of the member that leads it. Where a replica is on its way to another member, the inner half of the
//! band is shaded in that member's colour (without colours: `*`).

use std::f64::consts::TAU;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use annulus_client::{Member, MemberId, Ring, state_text};
use tokio::time::sleep;

use crate::args;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::progress::Live;

/// Lines of the picture. A character is about twice as high as wide.
const HEIGHT: usize = 19;
const WIDTH: usize = 2 * HEIGHT;
/// The hole's radius, as a part of the ring's.
const HOLE: f64 = 0.66;
/// Where the inner half of the band ends.
const MIDDLE: f64 = 0.83;
/// How often the ring is looked at while it is watched.
const LOOK: Duration = Duration::from_millis(500);

/// A character of the picture. Members stand by their place among [`by_name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Outside,
    Leaderless,
    Led(usize),
    /// A replica moves to this member; `None`: one is given up.
    Moving(Option<usize>),
}

/// Shows the ring.
pub(crate) async fn run(arguments: args::Ring) -> Result<(), Failure> {
    let client = arguments.connect.client()?;
    if arguments.watch {
        return watch(&arguments, &client).await;
    }
    let ring = client.ring().await?;
    show(&ring, arguments.output, arguments.picture)
}

/// Writes a ring: for people with its picture, if stdout is a terminal or they ask for it.
pub(crate) fn show(ring: &Ring, format: Format, picture: bool) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    match format {
        Format::Json => {
            serde_json::to_writer(&mut out, ring).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Format::Text => {
            for line in text(ring, picture || io::stdout().is_terminal(), output::colour()) {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Shows the ring again and again, until the process is ended. Where nobody looks on: each time it has changed.
async fn watch(arguments: &args::Ring, client: &annulus_client::Client) -> Result<(), Failure> {
    let live = Live::new();
    let seen = live.seen() && arguments.output == Format::Text;
    let mut last = None;
    loop {
        let ring = client.fresh_ring().await?;
        if seen {
            live.show(&text(&ring, true, output::colour()));
        } else if last.as_ref() != Some(&ring) {
            show(&ring, arguments.output, arguments.picture)?;
            last = Some(ring);
        }
        sleep(LOOK).await;
    }
}

/// A ring as lines of text.
pub(crate) fn text(ring: &Ring, picture: bool, colour: bool) -> Vec<String> {
    let mut text = Vec::new();
    if picture {
        text.extend(draw(ring).iter().map(|line| format!("  {}", paint(line, colour))));
        text.push(String::new());
    }
    for (at, line) in lines(ring).iter().enumerate() {
        text.push(match (picture, at) {
            (false, _) => line.clone(),
            (true, 0) => format!("     {line}"),
            (true, _) => format!("  {}  {line}", paint(&[Cell::Led(at - 1)], colour)),
        });
    }
    match ring.moves().len() {
        0 => {}
        moves if picture => {
            let sign = if colour { "░" } else { "*" };
            text.push(format!(
                "  {sign}  {moves} of the replicas are on their way: shaded in the colour of who receives them"
            ));
        }
        moves => text.push(format!("{moves} of the replicas are on their way")),
    }
    text
}

/// The letter that stands for the member at this place: A to Z, a to z, then all over.
fn letter(place: usize) -> char {
    let letters = ('A'..='Z').chain('a'..='z').collect::<Vec<_>>();
    letters[place % letters.len()]
}

/// A line of the picture; with colours, members are blocks instead of letters.
fn paint(line: &[Cell], colour: bool) -> String {
    let mut painted = String::new();
    for cell in line {
        match *cell {
            Cell::Outside => painted.push(' '),
            Cell::Leaderless => painted.push('·'),
            Cell::Led(place) if colour => painted.push_str(&coloured(place, '█')),
            Cell::Led(place) => painted.push(letter(place)),
            Cell::Moving(Some(place)) if colour => painted.push_str(&coloured(place, '░')),
            Cell::Moving(None) if colour => painted.push('░'),
            Cell::Moving(_) => painted.push('*'),
        }
    }
    painted.trim_end().to_owned()
}

fn coloured(place: usize, character: char) -> String {
    let style = output::member_style(place);
    format!("{style}{character}{style:#}")
}

/// The picture: who leads each partition, and which ones have a replica on its way.
fn draw(ring: &Ring) -> Vec<Vec<Cell>> {
    let members = by_name(ring);
    let place = |id: MemberId| members.iter().position(|member| member.id == id);
    let led = ring.assignments().iter().map(|assignment| {
        let leader = assignment.leader.and_then(place);
        leader.map_or(Cell::Leaderless, Cell::Led)
    });
    let led: Vec<Cell> = led.collect();
    let mut inner = led.clone();
    for moving in ring.moves() {
        if let Some(cell) = moving.partition.and_then(|partition| inner.get_mut(partition as usize)) {
            *cell = Cell::Moving(moving.to.and_then(place));
        }
    }
    let centre = (HEIGHT as f64 / 2.0, WIDTH as f64 / 2.0);
    let cell = |row: usize, column: usize| {
        let up = (centre.0 - row as f64 - 0.5) / centre.0;
        let right = (column as f64 + 0.5 - centre.1) / centre.1;
        let radius = up.hypot(right);
        if !(HOLE..=1.0).contains(&radius) {
            return Cell::Outside;
        }
        let turn = right.atan2(up).rem_euclid(TAU) / TAU;
        let partition = ((turn * led.len() as f64) as usize).min(led.len() - 1);
        if radius < MIDDLE { inner[partition] } else { led[partition] }
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
            state_text(member.state).to_owned(),
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

    fn moving(partition: u32, to: &str) -> Ring {
        let mut ring = serde_json::to_value(ring()).unwrap();
        ring["moves"] = json!([{"group": partition + 1, "partition": partition, "from": null, "to": to}]);
        serde_json::from_value(ring).unwrap()
    }

    #[test]
    fn the_picture_shows_the_leaders_clockwise_from_the_top() {
        let picture = draw(&ring());
        assert_eq!((picture.len(), picture[0].len()), (HEIGHT, WIDTH));
        let (top, bottom, left, right) = (1, HEIGHT - 2, WIDTH / 2 - 4, WIDTH / 2 + 4);
        assert_eq!((picture[top][right], picture[bottom][right]), (Cell::Led(0), Cell::Led(1)));
        assert_eq!((picture[bottom][left], picture[top][left]), (Cell::Leaderless, Cell::Led(0)));
        assert_eq!(picture[HEIGHT / 2][WIDTH / 2], Cell::Outside);
    }

    #[test]
    fn a_partition_that_moves_is_marked_in_the_inner_half_of_its_arc_only() {
        let still = text(&ring(), true, false);
        assert!(!still.concat().contains('*'), "{still:?}");
        let moving = text(&moving(1, "0000000000000001"), true, false);
        assert!(moving.last().unwrap().contains("1 of the replicas"), "{moving:?}");
        // Partition 1 is the lower right quarter, and its leader stays to be seen.
        let quarter = |line: &String| line.chars().skip(2 + WIDTH / 2).collect::<String>();
        let below: String = moving[HEIGHT / 2 + 1..HEIGHT].iter().map(quarter).collect();
        assert!(below.contains('*') && below.contains('B'), "{below}");
        assert!(!moving[..HEIGHT / 2].concat().contains('*'), "{moving:?}");
    }

    #[test]
    fn a_ring_that_moves_the_map_group_or_to_somebody_unknown_is_drawn_all_the_same() {
        assert!(text(&moving(3, "00000000000000ff"), true, true).concat().contains('░'));
        let mut ring = serde_json::to_value(ring()).unwrap();
        ring["moves"] = json!([{"group": 0, "partition": null, "from": null, "to": null, "cancelled": true}]);
        let ring: Ring = serde_json::from_value(ring).unwrap();
        assert!(text(&ring, false, false).last().unwrap().starts_with("1 of the replicas"));
    }

    #[test]
    fn without_colours_there_is_no_escape_and_with_them_no_letter() {
        assert_eq!(paint(&[Cell::Led(0), Cell::Outside, Cell::Leaderless, Cell::Outside], false), "A ·");
        let painted = paint(&[Cell::Led(0), Cell::Leaderless], true);
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
