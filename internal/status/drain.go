package status

// Drain is what becomes of an uplink's traffic on an operator's word.
type Drain int

// What operators say.
const (
	Undrained  Drain = iota // it carries new traffic again
	Drained                 // new traffic goes elsewhere as long as there is an elsewhere; what runs may finish
	DrainedNow              // and what runs ends
)
