package dns

import (
	"context"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

const (
	systemd1     = "org.freedesktop.systemd1"
	systemd1Path = "/org/freedesktop/systemd1"
	getProperty  = "org.freedesktop.DBus.Properties.Get"
)

// restartUnit has systemd restart the service whose main process that is, and returns its name. What is a part of another service, as the
// dnsmasq of libvirt or NetworkManager is, is left alone.
func restartUnit(ctx context.Context, pid int) (unit string, err error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("connecting to D-Bus: %w", err)
	}
	defer conn.Close()
	manager := conn.Object(systemd1, systemd1Path)
	var path dbus.ObjectPath
	if err := manager.CallWithContext(ctx, systemd1+".Manager.GetUnitByPID", 0, uint32(pid)).Store(&path); err != nil {
		return "", fmt.Errorf("looking for the unit of process %d: %w", pid, err)
	}
	var main uint32
	if err := property(ctx, conn.Object(systemd1, path), systemd1+".Unit", "Id", &unit); err != nil {
		return "", err
	}
	if !strings.HasSuffix(unit, ".service") {
		return "", fmt.Errorf("process %d belongs to no service", pid)
	}
	if err := property(ctx, conn.Object(systemd1, path), systemd1+".Service", "MainPID", &main); err != nil {
		return "", err
	}
	if int(main) != pid {
		return "", fmt.Errorf("process %d is not the main one of %s", pid, unit)
	}
	if err := manager.CallWithContext(ctx, systemd1+".Manager.RestartUnit", 0, unit, "replace").Err; err != nil {
		return "", fmt.Errorf("restarting %s: %w", unit, err)
	}
	return unit, nil
}

// property reads a property of an object.
func property(ctx context.Context, of dbus.BusObject, face, name string, into any) error {
	var v dbus.Variant
	err := of.CallWithContext(ctx, getProperty, 0, face, name).Store(&v)
	if err == nil {
		err = v.Store(into)
	}
	if err != nil {
		return fmt.Errorf("reading %s of %s: %w", name, of.Path(), err)
	}
	return nil
}
