//! Which rank this process is: torchrun, srun or mpirun say so in the environment.

use crate::error::{Error, Result};

/// This process among those that a launcher started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// This rank, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub ranks: usize,
    /// This rank among those of its machine: the number of its GPU.
    pub local: usize,
    /// Where rank 0 listens: host and port.
    pub address: (String, u16),
    /// Tells jobs apart that meet at one port, where the launcher numbers them; else 0.
    pub job: u64,
    /// Who started it, for messages.
    pub by: &'static str,
}

/// A launcher's variables for the rank, the number of ranks, the rank on this machine and the job.
struct Words {
    by: &'static str,
    rank: &'static str,
    ranks: &'static str,
    /// The first of them that is set counts.
    local: &'static [&'static str],
    job: &'static [&'static str],
}

/// In order of precedence: mpirun may be called within a Slurm job.
const LAUNCHERS: [Words; 4] = [
    Words {
        by: "torchrun",
        rank: "RANK",
        ranks: "WORLD_SIZE",
        local: &["LOCAL_RANK"],
        job: &["TORCHELASTIC_RUN_ID"],
    },
    Words {
        by: "mpirun",
        rank: "OMPI_COMM_WORLD_RANK",
        ranks: "OMPI_COMM_WORLD_SIZE",
        local: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        job: &["PMIX_NAMESPACE"],
    },
    Words {
        by: "mpirun",
        rank: "PMI_RANK",
        ranks: "PMI_SIZE",
        local: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
        job: &[],
    },
    // Of the step, not of the job: a script run by sbatch is no rank, whatever the job has room for.
    Words {
        by: "srun",
        rank: "SLURM_PROCID",
        ranks: "SLURM_STEP_NUM_TASKS",
        local: &["SLURM_LOCALID"],
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
    },
];

/// Ranks whose bytes a sum of f32 adds without rounding: 2^24 / 255, see [`super::Ranks::agree`].
const MOST: usize = 65_793;
/// The port if nothing else is said.
const PORT: u16 = 29_517;

impl Launch {
    /// What the environment says; `None` for a process that is alone.
    ///
    /// # Errors
    /// Values that are not numbers, a rank out of range, no address of rank 0.
    pub fn find(word: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
        let pmi_of_slurm = pmi_is_slurms(word);
        let speaks = |words: &&Words| {
            word(words.ranks).is_some()
                && word(words.rank).is_some()
                && !(pmi_of_slurm && words.rank == "PMI_RANK")
        };
        let Some(words) = LAUNCHERS.iter().find(speaks) else {
            // One of the two alone would make every process train by itself.
            return match (word("RANK"), word("WORLD_SIZE")) {
                (None, Some(ranks)) if ranks.trim() != "1" => Err(Error::setting(
                    "RANK",
                    format!("is not set, but WORLD_SIZE is {ranks}; set both or neither"),
                )),
                (Some(rank), None) => Err(Error::setting(
                    "WORLD_SIZE",
                    format!("is not set, but RANK is {rank}; set both or neither"),
                )),
                _ => Ok(None),
            };
        };
        let [rank, ranks] = [number(word, words.rank)?, number(word, words.ranks)?];
        if ranks == 1 {
            return Ok(None);
        }
        if ranks > MOST {
            return Err(Error::setting(
                words.ranks,
                format!("is {ranks}, but at most {MOST} ranks can be summed"),
            ));
        }
        if rank >= ranks {
            let what = format!("is {rank}, but {} is {ranks}; ranks count from 0", words.ranks);
            return Err(Error::setting(words.rank, what));
        }
        let local = match words.local.iter().find(|name| word(name).is_some()) {
            Some(name) => number(word, name)?,
            None => rank,
        };
        let address = (host(word, words)?, port(word)?);
        Ok(Some(Launch { rank, ranks, local, address, job: job(word, words), by: words.by }))
    }
}

/// Whether srun itself has set mpirun's variables, as Slurm's own PMI does for programs that use MPI.
fn pmi_is_slurms(word: &dyn Fn(&str) -> Option<String>) -> bool {
    let same = |a, b| word(a).is_some() && word(a) == word(b);
    same("PMI_RANK", "SLURM_PROCID") && same("PMI_SIZE", "SLURM_STEP_NUM_TASKS")
}

fn number(word: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<usize> {
    let text = word(name).unwrap_or_default();
    text.trim().parse().map_err(|_| Error::setting(name, format!("{text:?} is not a whole number")))
}

fn host(word: &dyn Fn(&str) -> Option<String>, words: &Words) -> Result<String> {
    if let Some(host) = word("MASTER_ADDR") {
        // An IPv6 address may stand in brackets, as in a URL.
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        return match bare.unwrap_or(&host).trim() {
            "" => Err(Error::setting("MASTER_ADDR", "is empty; set it to the name of rank 0's machine")),
            host => Ok(host.to_string()),
        };
    }
    if let (true, Some(nodes)) = (words.by == "srun", word("SLURM_STEP_NODELIST")) {
        return Ok(first_node(&nodes));
    }
    let all_here = |local| word(local).is_some_and(|local| Some(local) == word(words.ranks));
    if ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"].into_iter().any(all_here) {
        return Ok("127.0.0.1".into());
    }
    let what = format!(
        "is not set, and {} does not say which machine rank 0 runs on; set it to that machine's name",
        words.by
    );
    Err(Error::setting("MASTER_ADDR", what))
}

/// One above torchrun's own port, where its store listens.
fn port(word: &dyn Fn(&str) -> Option<String>) -> Result<u16> {
    if word("MASTER_PORT").is_some() {
        let port = number(word, "MASTER_PORT")?;
        let above = port.checked_add(1).and_then(|port| u16::try_from(port).ok()).filter(|_| port > 0);
        return above.ok_or_else(|| {
            Error::setting("MASTER_PORT", format!("{port} is not a port number from 1 to 65534"))
        });
    }
    // Jobs that share a machine must not share a port.
    let job = word("SLURM_JOB_ID").and_then(|job| job.parse::<u64>().ok()).unwrap_or(0);
    Ok(PORT + (job % 1000) as u16)
}

/// A number of the job, the same on all its ranks.
fn job(word: &dyn Fn(&str) -> Option<String>, words: &Words) -> u64 {
    let told: Vec<String> = words.job.iter().filter_map(|name| word(name)).collect();
    if told.is_empty() { 0 } else { u64::from(crc32fast::hash(told.join(" ").as_bytes())) }
}

/// The first node of a list: `n[07-09,12],m3` is n07, n08, ...
fn first_node(nodes: &str) -> String {
    let Some((name, rest)) = nodes.split_once('[').filter(|(name, _)| !name.contains(',')) else {
        return nodes.split(',').next().unwrap_or_default().to_string();
    };
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let behind = rest.split_once(']').map_or("", |(_, behind)| behind.split(',').next().unwrap_or_default());
    format!("{name}{number}{behind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(words: &str) -> Result<Option<Launch>> {
        let pair = |name: &str| {
            words
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(String::from))
        };
        Launch::find(&pair)
    }

    fn launch(words: &str) -> Launch {
        found(words).expect("sound words").expect("several ranks")
    }

    #[test]
    fn each_launcher_is_understood() {
        let torchrun = launch("RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=node7 MASTER_PORT=29400");
        assert_eq!((torchrun.rank, torchrun.ranks, torchrun.local), (3, 4, 1));
        assert_eq!(torchrun.address, ("node7".into(), 29401));
        let slurm = "SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=0 SLURM_JOB_ID=123456";
        let srun = launch(&format!("{slurm} SLURM_STEP_NODELIST=n[07-09,12]"));
        assert_eq!((srun.rank, srun.ranks, srun.by), (2, 8, "srun"));
        assert_eq!(srun.address, ("n07".into(), PORT + 456));
        let open = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2";
        assert_eq!(launch(open).address.0, "127.0.0.1");
        assert_eq!(launch("PMI_RANK=0 PMI_SIZE=2 MASTER_ADDR=[::1]").address.0, "::1");
        // Slurm's own PMI; and mpirun in a Slurm job, which starts one helper of its own per machine.
        let pmi = launch(&format!("{slurm} SLURM_STEP_NODELIST=n7 PMI_RANK=2 PMI_SIZE=8"));
        assert_eq!((pmi.by, pmi.local, pmi.address.0), ("srun", 0, "n7".into()));
        let inside =
            "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_LOCALID=0 PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1";
        let mpich = launch(&format!("{inside} MPI_LOCALNRANKS=2"));
        assert_eq!((mpich.by, mpich.local, mpich.address.0), ("mpirun", 1, "127.0.0.1".into()));
        assert_eq!(launch("PMI_RANK=3 PMI_SIZE=4 PMI_LOCAL_RANK=1 MASTER_ADDR=a").local, 1);
        let job = |step: &str| launch(&format!("{slurm} SLURM_STEP_NODELIST=n1 SLURM_STEP_ID={step}")).job;
        assert!(job("0") != job("1") && job("0") == job("0") && torchrun.job == 0);
    }

    #[test]
    fn a_process_without_a_launcher_is_alone() {
        assert_eq!(found("").expect("nothing said"), None);
        assert_eq!(found("RANK=0 WORLD_SIZE=1").expect("one rank"), None);
        assert_eq!(found("WORLD_SIZE=1").expect("one rank"), None);
        // A script run by sbatch.
        assert_eq!(found("SLURM_PROCID=0 SLURM_NTASKS=8").expect("no step"), None);
    }

    #[test]
    fn words_that_cannot_be_are_refused() {
        for words in [
            "WORLD_SIZE=2",
            "RANK=0",
            "RANK=x WORLD_SIZE=2 MASTER_ADDR=a",
            "RANK=2 WORLD_SIZE=2 MASTER_ADDR=a",
            "RANK=0 WORLD_SIZE=2",
            "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=65535",
            "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=0",
            "RANK=0 WORLD_SIZE=2 MASTER_ADDR=[]",
            "RANK=0 WORLD_SIZE=1000000000 MASTER_ADDR=a",
        ] {
            assert!(found(words).is_err(), "{words}");
        }
    }

    #[test]
    fn the_first_of_a_list_of_nodes_is_found() {
        for (nodes, first) in
            [("a1", "a1"), ("a1,b2", "a1"), ("n[3,5]", "n3"), ("n[01-04]-ib,x", "n01-ib"), ("a,n[1-2]", "a")]
        {
            assert_eq!(first_node(nodes), first);
        }
    }
}
