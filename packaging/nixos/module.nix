# imports = [ ./uplinkd/packaging/nixos/module.nix ]; services.uplinkd.enable = true;
{ config, lib, pkgs, ... }:

let
  cfg = config.services.uplinkd;
  toml = pkgs.formats.toml { };
  # What check refuses fails the build, not the boot.
  checked = file: pkgs.runCommand "uplinkd.toml" { } ''
    ${cfg.package}/bin/uplinkd check -c ${file}
    cp ${file} $out
  '';
in
{
  options.services.uplinkd = {
    enable = lib.mkEnableOption "uplinkd, several uplinks on one router";
    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package to use.";
    };
    settings = lib.mkOption {
      type = lib.types.nullOr toml.type;
      default = null;
      example = { uplink = [ { name = "fiber"; device = "eth1"; } { name = "lte"; device = "wwan0"; tier = 2; metered = true; } ]; };
      description = "The configuration, see uplinkd.toml(5). Without one, every device that holds a default route is an uplink. Secrets do not belong here: name files.";
    };
    extraPackages = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [ ];
      example = lib.literalExpression "[ pkgs.tayga pkgs.unbound ]";
      description = "What the daemon runs: tayga for method = \"clat\", unbound-control for [dns] unbound.";
    };
    guard = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = "Close kill switches at boot, before the network is up.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."uplinkd/uplinkd.toml" = lib.mkIf (cfg.settings != null) {
      source = checked (toml.generate "uplinkd.toml" cfg.settings);
    };
    users.groups.uplinkd = { }; # its members may use the control socket
    systemd.packages = [ cfg.package ];
    systemd.services.uplinkd = {
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = lib.optional (cfg.settings != null) config.environment.etc."uplinkd/uplinkd.toml".source;
      path = cfg.extraPackages; # of the system's programs a unit of NixOS finds none by itself
      stopIfChanged = false; # restarted in one go: nobody watches the lines while the rest of a new system is activated
    };
    systemd.services.uplinkd-guard.wantedBy = lib.mkIf cfg.guard [ "sysinit.target" ];
    # networkd deletes rules and routes of others unless it is told not to.
    systemd.network.config.networkConfig = {
      ManageForeignRoutes = lib.mkDefault false;
      ManageForeignRoutingPolicyRules = lib.mkDefault false;
    };
  };
}
