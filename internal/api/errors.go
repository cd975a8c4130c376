package api

// told is an error whose whole text is for the operator. The causes are for
// errors.Is and errors.As only.
type told struct {
	message string
	causes  []error
}

// Error implements error.
func (e *told) Error() string { return e.message }

// Unwrap returns the causes.
func (e *told) Unwrap() []error { return e.causes }
