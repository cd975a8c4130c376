//go:build vm

package main

import "testing"

func TestVMThePlansOfTunnelsAreWhatTheToolsAccept(t *testing.T) { checkExamples(t, true) }
