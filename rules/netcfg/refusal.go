package netcfg

import "strings"

// Refusal is the error of a change that the kernel has refused.
type Refusal struct {
	Op  Op
	Err error
}

func (r *Refusal) Error() string {
	line, _, _ := strings.Cut(r.Op.Command(), "\n")
	return line + ": " + r.Err.Error()
}

func (r *Refusal) Unwrap() error { return r.Err }

// Refusals lists those that an error is or joins.
func Refusals(err error) []*Refusal {
	switch err := err.(type) {
	case *Refusal:
		return []*Refusal{err}
	case interface{ Unwrap() []error }:
		var list []*Refusal
		for _, joined := range err.Unwrap() {
			list = append(list, Refusals(joined)...)
		}
		return list
	}
	return nil
}
