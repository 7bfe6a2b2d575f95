//! The first map of a store.
//!
//! ```text
//! bootstrap members=5 zones=3 partitions=8 factor=3
//! members              who they are
//! assignments          who holds each partition, the preferred leader first
//! group map|p0         the voters of a group, and who should lead it
//! holds N              the groups of member N
//! find KEY             the partition that a key lies in
//! ```

use annulus_core::id::{ClusterId, GroupId, MemberId, PartitionId};
use annulus_core::map::{Map, Member, MemberState};

use crate::arguments::{Arguments, Result};
use crate::script;

#[derive(Default)]
pub struct Player {
    map: Option<Map>,
}

/// A member called `m1`, `m2`, …
pub fn member(number: u64, zones: u64) -> Member {
    Member {
        id: MemberId::new(number).expect("members are counted from 1"),
        name: format!("m{number}"),
        zone: if zones == 0 { String::new() } else { format!("z{}", (number - 1) % zones + 1) },
        weight: 100,
        state: MemberState::Active,
        client_address: format!("m{number}:7070"),
        peer_address: format!("m{number}:7270"),
        admin_address: format!("m{number}:7170"),
    }
}

fn ids(ids: &[MemberId]) -> String {
    ids.iter().map(|id| id.get().to_string()).collect::<Vec<_>>().join(" ")
}

fn bootstrap(arguments: &mut Arguments) -> Result<Map> {
    let mut number = |name: &str| -> Result<u64> {
        arguments.option(name).unwrap_or("0").parse().map_err(|_| format!("`{name}` is not a number"))
    };
    let (members, zones) = (number("members")?, number("zones")?);
    let (partitions, factor) = (number("partitions")? as u32, number("factor")? as usize);
    let members = (1..=members).map(|id| member(id, zones)).collect();
    Map::bootstrap(ClusterId(*b"a script's store"), partitions, factor, members).map_err(|error| error.to_string())
}

impl script::Player for Player {
    fn play(&mut self, line: &str) -> Result<Vec<String>> {
        let (command, mut arguments) = Arguments::new(line);
        if command == "bootstrap" {
            let made = bootstrap(&mut arguments);
            arguments.end()?;
            return Ok(match made {
                Err(error) => vec![error],
                Ok(map) => {
                    map.check();
                    assert_eq!(Map::decode(map.encode()), Ok(map.clone()));
                    let line = format!("epoch {}, map voters {}", map.epoch, ids(&map.map_voters));
                    self.map = Some(map);
                    vec![line]
                }
            });
        }
        let map = self.map.as_ref().ok_or("there is no map yet")?;
        let output = match command {
            "members" => map.members.iter().map(|m| format!("{} {} {}", m.id, m.name, m.zone)).collect(),
            "assignments" => {
                let assignments = map.assignments.iter().enumerate();
                assignments.map(|(p, a)| format!("p{p}: {}, led by {}", ids(&a.replicas), a.leader.get())).collect()
            }
            "group" => {
                let name = arguments.need("a group")?;
                let number = name.strip_prefix('p').and_then(|number| number.parse().ok());
                let group = number.map_or(GroupId::MAP, |number| PartitionId(number).group());
                match map.group(group) {
                    None => vec!["unknown".to_owned()],
                    Some((voters, leader)) => vec![format!("{}, led by {}", ids(voters), leader.get())],
                }
            }
            "holds" => {
                let id = MemberId::new(arguments.number("a member")?).ok_or("members are counted from 1")?;
                let groups: Vec<_> = map.groups_of(id).iter().map(ToString::to_string).collect();
                vec![groups.join(" ")]
            }
            "find" => vec![map.partition_of(arguments.key()?.bytes()).to_string()],
            _ => return Err(format!("there is no command `{command}`")),
        };
        arguments.end()?;
        Ok(output)
    }
}
