package probe

// voter returns the next target in turn that may vote. There always is one:
// no target is dead unless others live.
func (d *Detector) voter() int {
	for i := range d.targets {
		if j := (d.cursor + i) % len(d.targets); !d.targets[j].dead {
			return j
		}
	}
	return d.cursor
}

// voters counts the targets that may vote.
func (d *Detector) voters() int {
	n := 0
	for i := range d.targets {
		if !d.targets[i].dead {
			n++
		}
	}
	return n
}

// answering counts the targets that have answered since the last trouble began.
func (d *Detector) answering() int {
	n := 0
	for i := range d.targets {
		if d.targets[i].epoch == d.epoch {
			n++
		}
	}
	return n
}

// countFalseSilences counts the misses of targets that were silent although the
// answered probe left no earlier than theirs. An outage of the uplink counts once
// at most for each target, when it ends.
func (d *Detector) countFalseSilences(answered inFlightProbe) {
	for i := range d.targets {
		t := &d.targets[i]
		if i == answered.target || !t.missPending || answered.sent.Before(t.missSent) {
			continue
		}
		t.missPending = false
		if t.falseSilences++; t.falseSilences >= deadSilences && !t.dead && d.others(i) >= d.cfg.MinTargetsUp {
			t.dead = true
			t.due = answered.sent.Add(deadFactor * d.cfg.Interval)
			d.recent.discard(i)
			if d.cfg.OnOutcome != nil {
				d.cfg.OnOutcome(Outcome{i, d.voters(), Discarded})
			}
		}
	}
}

// others counts the voters beside one target that have answered several probes
// in a row: where probes to all of them get lost, it is the uplink that loses.
func (d *Detector) others(index int) int {
	n := 0
	for i := range d.targets {
		if t := &d.targets[i]; i != index && t.streak >= deadSilences && !t.dead {
			n++
		}
	}
	return n
}
