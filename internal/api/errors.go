package api

// operatorError is an error whose whole text is for the operator. The causes are for
// errors.Is and errors.As only.
type operatorError struct {
	message string
	causes  []error
}

// Error implements error.
func (e *operatorError) Error() string { return e.message }

// Unwrap returns the causes.
func (e *operatorError) Unwrap() []error { return e.causes }
