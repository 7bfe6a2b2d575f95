//! The words of a command.

use std::time::Duration;

use annulus_core::id::{MemberId, PartitionId};
use annulus_core::partition::{Change, Condition, Fence, Key, Scan, Write, lock, txn};
use annulus_core::replica::{Configure, Step};
use bytes::Bytes;

/// The words of a command after the first, and its `name=value` options.
pub struct Arguments<'a> {
    words: std::vec::IntoIter<&'a str>,
    options: Vec<(&'a str, &'a str)>,
}

pub type Result<T> = std::result::Result<T, String>;

impl<'a> Arguments<'a> {
    /// Takes a line apart.
    pub fn new(line: &'a str) -> (&'a str, Self) {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let (options, words): (Vec<_>, Vec<_>) = words.partition(|word| word.contains('='));
        let options = options.into_iter().filter_map(|option| option.split_once('=')).collect();
        (command, Self { words: words.into_iter(), options })
    }

    /// The next word, if there is one.
    pub fn word(&mut self) -> Option<&'a str> {
        self.words.next()
    }

    /// The next word, which must be there.
    pub fn need(&mut self, what: &str) -> Result<&'a str> {
        self.word().ok_or_else(|| format!("{what} is missing"))
    }

    /// The next word as a number.
    pub fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        let word = self.need(what)?;
        word.parse().map_err(|_| format!("`{word}` is not {what}"))
    }

    /// The next word as a duration (`200ms`, `3s`).
    pub fn duration(&mut self) -> Result<Duration> {
        duration(self.need("a duration")?)
    }

    /// The value of an option.
    pub fn option(&mut self, name: &str) -> Option<&'a str> {
        let at = self.options.iter().position(|(known, _)| *known == name)?;
        Some(self.options.remove(at).1)
    }

    /// The value of an option as a number.
    pub fn option_number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let parse = |value: &str| value.parse().map_err(|_| format!("`{name}` is not a number"));
        self.option(name).map(parse).transpose()
    }

    /// The next word as a member.
    pub fn member(&mut self) -> Result<MemberId> {
        member(self.need("a member")?)
    }

    /// Nothing may be left.
    pub fn end(mut self) -> Result<()> {
        match (self.words.next(), self.options.first()) {
            (None, None) => Ok(()),
            (Some(word), _) => Err(format!("`{word}` is left over")),
            (_, Some((option, _))) => Err(format!("there is no option `{option}` here")),
        }
    }

    /// `KEY VALUE [if=absent|exists|VERSION] [ttl=D] [name=N]`.
    pub fn put(&mut self) -> Result<Write> {
        let key = self.key()?;
        let value = bytes(self.need("a value")?)?;
        let ttl_ms = self.option("ttl").map(duration).transpose()?.map(|ttl| ttl.as_millis() as u64);
        self.write(key, Change::Put { value, ttl_ms })
    }

    /// `KEY [if=absent|exists|VERSION] [name=N]`.
    pub fn delete(&mut self) -> Result<Write> {
        let key = self.key()?;
        self.write(key, Change::Delete)
    }

    fn write(&mut self, key: Key, change: Change) -> Result<Write> {
        let condition = match self.option("if") {
            None => Condition::Always,
            Some("absent") => Condition::Absent,
            Some("exists") => Condition::Exists,
            Some(version) => Condition::Version(version.parse().map_err(|_| format!("`{version}` is no version"))?),
        };
        let idempotency_key = self.option("name").map(|name| Bytes::copy_from_slice(name.as_bytes()));
        let fence = self.option("fence").map(fence).transpose()?;
        Ok(Write { key, condition, change, idempotency_key, fence })
    }

    /// The next word as a key.
    pub fn key(&mut self) -> Result<Key> {
        Key::new(bytes(self.need("a key")?)?).map_err(|error| error.to_string())
    }

    /// `acquire LOCK OWNER [mode=shared] [ttl=D] [wait=D] [request=N] [for=TEXT] | renew LOCK TOKEN [ttl=D] |
    /// release LOCK TOKEN | leave LOCK TOKEN ASKED`.
    pub fn lock(&mut self) -> Result<lock::Command> {
        let verb = self.need("what to do with the lock")?;
        let name = lock_name(self.need("a lock")?)?;
        let mut time = |name: &str, default: &str| {
            let text = self.option(name).unwrap_or(default);
            duration(text).map(|time| time.as_millis() as u64)
        };
        Ok(match verb {
            "acquire" => {
                let (ttl_ms, wait_ms) = (time("ttl", "10s")?, time("wait", "0s")?);
                let owner = bytes(self.need("an owner")?)?;
                let request = bytes(self.option("request").unwrap_or("first"))?;
                let description = bytes(self.option("for").unwrap_or_default())?;
                let mode = match self.option("mode") {
                    None => lock::Mode::Exclusive,
                    Some("shared") => lock::Mode::Shared,
                    Some(other) => return Err(format!("`{other}` is no mode")),
                };
                lock::Command::Acquire(lock::Acquire { name, owner, request, description, mode, ttl_ms, wait_ms })
            }
            "renew" => lock::Command::Renew { name, ttl_ms: time("ttl", "10s")?, token: self.number("a token")? },
            "release" => lock::Command::Release { name, token: self.number("a token")? },
            "leave" => lock::Command::Leave { name, token: self.number("a token")?, asked: self.number("an index")? },
            other => return Err(format!("nobody can `{other}` a lock")),
        })
    }

    /// What is asked of a partition for a transaction: see `partition`.
    pub fn txn(&mut self) -> Result<txn::Command> {
        let verb = self.need("what to do")?;
        let id = txn_id(self.need("an attempt")?)?;
        let digest = [7; 32];
        Ok(match verb {
            "alone" => txn::Command::Alone(txn::Alone { id, digest, part: self.part()? }),
            "prepare" => {
                let anchor = PartitionId(self.option_number("anchor")?.unwrap_or(0));
                let participants = self
                    .option("of")
                    .map_or(Ok(Vec::new()), |text| text.split(',').map(|word| word.parse().map(PartitionId)).collect());
                txn::Command::Prepare(txn::Prepare {
                    id,
                    priority: self.option_number("priority")?.unwrap_or(5),
                    digest,
                    anchor,
                    participants: participants.map_err(|_| "`of` names partitions".to_owned())?,
                    without_else: self.option("without-else").is_some(),
                    is_patient: self.option("patient").is_some(),
                    part: self.part()?,
                })
            }
            "probe" => txn::Command::Probe(id),
            "decide" | "resolve" | "close" => {
                let step = match verb {
                    "close" => txn::Settle::Close { id },
                    _ => {
                        let decision = match self.need("a decision")? {
                            "then" => txn::Decision::Then,
                            "else" => txn::Decision::Otherwise,
                            "abort" => txn::Decision::Abort,
                            other => return Err(format!("`{other}` is no decision")),
                        };
                        match verb {
                            "decide" => txn::Settle::Decide { id, decision, results: None },
                            _ => txn::Settle::Resolve { id, decision },
                        }
                    }
                };
                txn::Command::Settle(vec![step])
            }
            other => return Err(format!("nobody can `{other}` a transaction")),
        })
    }

    fn part(&mut self) -> Result<txn::Part> {
        let mut part = txn::Part::default();
        let key = |text: &str| Key::new(bytes(text)?).map_err(|error| error.to_string());
        while let Some(word) = self.word() {
            let words: Vec<_> = word.split(':').collect();
            let (words, branch) = match words.split_first() {
                Some((&"else", rest)) => (rest.to_vec(), &mut part.otherwise),
                _ => (words, &mut part.then),
            };
            match words[..] {
                ["if", of, "absent"] => {
                    part.conditions.push(txn::Condition { key: key(of)?, check: txn::Check::Exists(false) });
                }
                ["if", of, "is", value] => {
                    part.conditions.push(txn::Condition { key: key(of)?, check: txn::Check::Value(bytes(value)?) });
                }
                ["if", of, version] => {
                    let version = version.parse().map_err(|_| format!("`{version}` is no version"))?;
                    part.conditions.push(txn::Condition { key: key(of)?, check: txn::Check::Version(version) });
                }
                ["lock", name, token] => {
                    let token = token.parse().map_err(|_| format!("`{token}` is no token"))?;
                    part.locks.push(txn::LockHeld { lock: lock_name(name)?, token });
                }
                ["put", of, value] => {
                    branch.push(txn::Action::Put { key: key(of)?, value: bytes(value)?, ttl_ms: None });
                }
                ["delete", of] => branch.push(txn::Action::Delete { key: key(of)? }),
                ["get", of] => branch.push(txn::Action::Get { key: key(of)? }),
                ["fence", name, token] => part.fence = Some(fence(&format!("{name}:{token}"))?),
                _ => return Err(format!("`{word}` is no part of a transaction")),
            }
        }
        Ok(part)
    }

    /// All words that are left, as keys.
    pub fn keys(&mut self) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        while let Some(word) = self.word() {
            keys.push(Key::new(bytes(word)?).map_err(|error| error.to_string())?);
        }
        Ok(keys)
    }

    /// The next word as the name of a lock.
    pub fn lock_name(&mut self) -> Result<lock::Name> {
        lock_name(self.need("a lock")?)
    }

    /// `[PREFIX] [after=KEY] [limit=N] [values=no]`.
    pub fn scan(&mut self) -> Result<Scan> {
        let limit = self.option("limit").map_or(Ok(100), str::parse).map_err(|_| "limit is not a number".to_owned())?;
        Ok(Scan {
            prefix: self.word().map(bytes).transpose()?.unwrap_or_default(),
            after: self.option("after").map(bytes).transpose()?,
            limit,
            values: self.option("values") != Some("no"),
        })
    }
}

/// `LOCK:TOKEN`, or `LOCK:TOKEN?` if its partition has not said that it is held.
fn fence(text: &str) -> Result<Fence> {
    let (lock, token) = text.split_once(':').ok_or_else(|| format!("`{text}` is no fence such as job:7"))?;
    let (token, is_held) = token.strip_suffix('?').map_or((token, true), |token| (token, false));
    let token = token.parse().map_err(|_| format!("`{token}` is no token"))?;
    Ok(Fence { lock: lock_name(lock)?, token, is_held })
}

/// `NAME/COORDINATOR.ATTEMPT`.
fn txn_id(text: &str) -> Result<txn::Id> {
    let wrong = || format!("`{text}` is no attempt such as t1/1.0");
    let (name, rest) = text.split_once('/').ok_or_else(wrong)?;
    let (coordinator, attempt) = rest.split_once('.').ok_or_else(wrong)?;
    let name = txn::Name::new(Bytes::copy_from_slice(name.as_bytes())).map_err(|error| error.to_string())?;
    let (coordinator, attempt) = (coordinator.parse().map_err(|_| wrong())?, attempt.parse().map_err(|_| wrong())?);
    Ok(txn::Id { name, coordinator, attempt })
}

fn lock_name(text: &str) -> Result<lock::Name> {
    lock::Name::new(bytes(text)?).map_err(|error| error.to_string())
}

/// `1`, `2`, …
pub fn member(text: &str) -> Result<MemberId> {
    text.parse().ok().and_then(MemberId::new).ok_or_else(|| format!("`{text}` is no member"))
}

/// `1,2,3`; `none` and the empty text are nobody.
pub fn members(text: &str) -> Result<Vec<MemberId>> {
    text.split(',').filter(|word| !word.is_empty() && *word != "none").map(member).collect()
}

/// `EPOCH fence | add N | forget N | leave | swap [add=N] [remove=N]`: a step of a group's configuration.
pub fn configure(arguments: &mut Arguments) -> Result<Configure> {
    let epoch = arguments.number("an epoch")?;
    let step = match arguments.need("a step")? {
        "fence" => Step::Fence,
        "add" => Step::AddLearner(arguments.member()?),
        "forget" => Step::RemoveLearner(arguments.member()?),
        "leave" => Step::LeaveJoint,
        "swap" => Step::Swap {
            add: arguments.option("add").map(member).transpose()?,
            remove: arguments.option("remove").map(member).transpose()?,
        },
        other => return Err(format!("there is no step `{other}`")),
    };
    Ok(Configure { epoch, step })
}

/// `200ms` or `3s`.
pub fn duration(text: &str) -> Result<Duration> {
    let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a number"));
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(milliseconds), _) => Ok(Duration::from_millis(number(milliseconds)?)),
        (None, Some(seconds)) => Ok(Duration::from_secs(number(seconds)?)),
        _ => Err(format!("`{text}` is not a duration such as 200ms or 3s")),
    }
}

/// A text as it stands, or `x*300`: as often as the number says.
fn bytes(text: &str) -> Result<Bytes> {
    let Some((unit, times)) = text.split_once('*') else { return Ok(Bytes::copy_from_slice(text.as_bytes())) };
    let times = times.parse().map_err(|_| format!("`{times}` is not a number"))?;
    Ok(unit.repeat(times).into())
}
